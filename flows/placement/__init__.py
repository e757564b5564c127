"""Where a night computes, if not in its own process: as a flow run in another pool (`prefect_pool.py`)."""
