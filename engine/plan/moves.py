"""The shares that replicas begin with, and what moves to one that has nothing left to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.plan.order import arrange, leaf_of
from engine.plan.partition import partition
from engine.plan.tree import node_costs

if TYPE_CHECKING:
    from engine.arrays import Float64, Int32
    from engine.cost.step import DeviceProfile, ModelShape
    from engine.plan.tree import NodeCosts, PrefixTree


def divide(
    tree: PrefixTree,
    requests: Int32,
    estimate: Float64,
    shape: ModelShape,
    device: DeviceProfile,
    parts: int,
) -> tuple[Int32, ...]:
    """Divide some requests into parts alike in compute and memory work (`engine.plan.partition`).

    Parameters
    ----------
    tree
        Of the prompts of all N requests.
    requests
        int32 [n]: the ones to divide.
    estimate
        float64 [N], tokens: expected output lengths.
    parts
        R, at least 1.

    Returns
    -------
    tuple
        For each part its requests, int32, rising. Together they are `requests`.

    Raises
    ------
    ValueError
        If `parts` is below 1.
    """
    some = arrange(tree, np.sort(leaf_of(tree)[requests]))
    own = some.sorted
    # Numbered by leaf meanwhile, so that the work is that of these requests.
    local = some._replace(sorted=np.arange(own.shape[0], dtype=np.int32))
    output = estimate[own]

    def cost_of(part: PrefixTree) -> tuple[NodeCosts, Float64, Float64]:
        return node_costs(part, output, shape, device.flops, device.read_bytes)

    return tuple(np.sort(own[part]) for part in partition(local, output, cost_of, parts).requests)


def part_to_move(
    tree: PrefixTree, waiting: Int32, estimate: Float64, shape: ModelShape, device: DeviceProfile
) -> Int32:
    """Return which of the requests that wait in a replica another one takes that has none: half of them.

    Parameters are those of `divide`; `waiting` are requests that have not been begun.
    """
    return divide(tree, waiting, estimate, shape, device, 2)[1]
