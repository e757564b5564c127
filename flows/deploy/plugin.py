"""Prefect loads this when it starts with PREFECT_PLUGINS_ENABLED=true: our packages are imported once, early.

Prefect puts the working directory first on the path while it imports a flow, so that a file `tasks.py` there
would be taken for our package of that name. What is imported already cannot be taken for anything else.
"""

import engine
import flows
import tasks

PACKAGES = (engine, flows, tasks)
