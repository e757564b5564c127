"""One night: the order of its steps, the steps as Prefect tasks, and what its errors mean.

Begin with `sequence.py`, a night from beginning to end.
"""
