"""The orders that the blend is compared with, each as a plan for the same scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engine.plan.policies import Plan, plan_tree
from tests.benchmarks.plan.peers import PEERS

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.cost.step import DeviceProfile, ModelShape
    from engine.plan.tree import PrefixTree
    from tests.benchmarks.lib.workloads import Workload

    Float64 = npt.NDArray[np.float64]

BASELINES = {
    "fcfs": "in order of arrival",
    "random": "a seeded shuffle",
    "dfs": "depth-first over the prefix tree",
    "prefill_first": "the blend's own order, walked from its compute-heavy end only",
    "interleave": "workloads side by side in proportion, depth-first inside each",
}
"""Name -> what it does. All are walked from one end."""
ORDERS = {
    **BASELINES,
    "blend": "walked from both ends",
    **{name: f"another system's (`peers.{order.__name__}`)" for name, order in PEERS.items()},
}


def plan_of(
    order: str, mix: Workload, tree: PrefixTree, estimate: Float64, shape: ModelShape, device: DeviceProfile
) -> Plan:
    """Return the plan of one of `ORDERS`.

    Parameters
    ----------
    tree
        Of the mix.
    estimate
        float64 [N]: expected answer lengths, which every order's admission goes by.

    Raises
    ------
    ValueError
        If the order is unknown.
    """
    if order not in ORDERS:
        raise ValueError(f"{order!r} is unknown; choose one of {', '.join(ORDERS)}")
    group = mix.workload.astype(np.int64)
    if order in PEERS:
        plan = plan_tree("dfs", tree, estimate, shape, device, group=group)
        return replace(plan, order=PEERS[order](mix, tree, estimate))
    policy = "blend" if order == "prefill_first" else order
    plan = plan_tree(policy, tree, estimate, shape, device, group=group)
    # Any other policy's name than `blend` makes the scan walk from one end.
    return replace(plan, policy="dfs") if order == "prefill_first" else plan
