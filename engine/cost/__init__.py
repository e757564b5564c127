"""What a step costs: the cost model, device profiles, devices, the optimum, and the metrics of a run."""
