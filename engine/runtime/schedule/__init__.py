"""Whether a request that `engine.plan.scan` proposes joins the running ones, and what each step computes.

Begin with `step` and `admission`. Room is judged by two ledgers, `forecast` and `side_balance`; `preemption`
takes it back, `pacing` sets the size of a step, `flight` keeps count of steps whose result is still to come.
"""
