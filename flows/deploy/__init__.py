"""What a Prefect server needs to run nights: pools, queues, limits, deployments and automations.

Begin with `prepare.py`, the one place that creates them; `nightblend deploy` calls it. `serve.py` does
without a pool. The base job templates of the work pools are in `pools/`.
"""
