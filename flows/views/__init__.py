"""What people see: on a terminal, in the Prefect UI, as events for other systems.

Begin with `console.py`, a night on a terminal; `artifacts.py`, `progress.py` and `events.py` are the same for
Prefect.
"""
