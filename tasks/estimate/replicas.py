"""How long a night takes on several replicas, each with a part of the requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.plan.partition import partition
from engine.plan.tree import node_costs

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.plan.tree import NodeCosts, PrefixTree
    from tasks.estimate.case import Case, Way

    Float64 = npt.NDArray[np.float64]
    Int64 = npt.NDArray[np.int64]


def divided_seconds(case: Case, way: Way, replicas: int, *, balanced: bool) -> float:
    """Return the modelled seconds of the replica that has most to do.

    Parameters
    ----------
    balanced
        Divide by work and prefixes (`engine.plan.partition`); else deal requests out in turn, as they came.
    """
    if replicas == 1:
        return case.seconds(way)
    parts = _balanced(case, replicas) if balanced else _dealt(case, replicas)
    compute, memory = _work(case)
    part = max(parts, key=lambda part: float(compute[part].sum() + memory[part].sum()))
    if not len(part):
        return 0.0
    return case.part(part).seconds(way)


def _work(case: Case) -> tuple[Float64, Float64]:
    """Return the modelled seconds of each request, by its true length."""
    machine, output = case.machine, case.requests.output.astype(np.float64)
    device = machine.device
    _, compute, memory = node_costs(
        case.requests.tree, output, machine.shape, device.flops, device.read_bytes
    )
    return compute, memory


def _dealt(case: Case, replicas: int) -> list[Int64]:
    return [np.arange(i, len(case.requests), replicas) for i in range(replicas)]


def _balanced(case: Case, replicas: int) -> list[Int64]:
    machine, output = case.machine, case.estimate

    def cost_of(tree: PrefixTree) -> tuple[NodeCosts, Float64, Float64]:
        return node_costs(tree, output, machine.shape, machine.device.flops, machine.device.read_bytes)

    found = partition(case.requests.tree, output, cost_of, replicas)
    # Each replica takes its own in order of arrival.
    return [np.sort(part.astype(np.int64)) for part in found.requests]
