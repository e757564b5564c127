"""Which request is admitted next, what a step computes, and how many tokens it takes.

Begin with `step` and `admission`. Room is judged by two ledgers, `forecast` and `side_balance`; `preemption`
takes it back, `pacing` sets the size of a step, `flight` keeps count of steps whose result is still to come.
"""
