"""What a step costs: the cost model, device profiles, devices, the optimum, and the metrics of a run.

Begin with `step`: planner, scheduler, simulator and metrics take their terms from there.
"""
