"""What a person triggers: the flows, a module each, and from the terminal the command line (`flows.cli`).

Begin with `nightly.py`. The rooms, each of which imports only those before it: `parameters`, `run`, `views`,
`dates`, `placement`, the flows themselves, `api` (the same from Python), `deploy`, `commands`.
"""

from __future__ import annotations

import os

# Prefect reads its settings when it is first imported, which always comes after this line. The time is for
# the API it starts inside the process where no server is configured: 8 to 12 s on an idle machine.
for _name, _value in {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
}.items():
    os.environ.setdefault(_name, _value)
