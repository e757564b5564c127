"""One date after another: in this process, as flow runs of a deployment, and catching up before a night.

Begin with `in_process.py`, which runs dates one by one; what a date needs is decided in `tasks.operations`.
"""
