"""What keeps the process of a run safe: its environment, and our packages imported once and early.

Prefect loads this as a plugin when it starts with PREFECT_PLUGINS_ENABLED=true. It puts the working directory
first on the path while it imports a flow, so that a file `tasks.py` there would be taken for our package of
that name. What is imported already cannot be taken for anything else.
"""

from __future__ import annotations

from typing import Final

import engine
import flows
import tasks

PACKAGES: Final = (engine, flows, tasks)

SAFE_ENVIRONMENT: Final = {"PYTHONSAFEPATH": "1", "PREFECT_PLUGINS_ENABLED": "true"}
"""What keeps files of the working directory from standing in for our packages."""
HEARTBEAT_S: Final = 30
"""Between two signs of life of a flow run."""
RUN_ENVIRONMENT: Final = {**SAFE_ENVIRONMENT, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
"""What the process of a run needs; Prefect's own heartbeat is so slow that a run would seem dead
(`flows.deploy.automations.SILENT_S`)."""
