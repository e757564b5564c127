"""What a Prefect server needs to run nights: pools, queues, limits, deployments and automations.

`prepare.py` is the one place that creates them; `nightblend deploy` calls it. The base job templates of the
work pools are in `pools/`.
"""

from __future__ import annotations

from typing import Final

SAFE_ENVIRONMENT: Final = {"PYTHONSAFEPATH": "1", "PREFECT_PLUGINS_ENABLED": "true"}
"""What keeps files of the working directory from standing in for our packages, see `flows.deploy.plugin`."""
HEARTBEAT_S: Final = 30
"""Between two signs of life of a flow run."""
RUN_ENVIRONMENT: Final = {**SAFE_ENVIRONMENT, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
"""What the process of a run needs; Prefect's own heartbeat is so slow that a run would seem dead
(`flows.deploy.automations.SILENT_S`)."""
