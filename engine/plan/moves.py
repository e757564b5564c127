"""The shares that replicas begin with, and what moves to one that has nothing left to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.plan.order import arrange, leaf_of
from engine.plan.partition import partition
from engine.plan.tree import build_tree, node_costs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.arrays import Float64, Int32, Int64
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


class Giver:
    """Chooses what an engine that runs gives back, for another one that has nothing left.

    Parameters
    ----------
    owner
        For each of N sequences the request that it is of, in any names. Its sequences stay together.
    tokens, start
        int32 [total], int64 [N + 1]: the prompts, flat.
    tree
        Of the prompts; None: it is made when it is first asked for.
    shape, device
        Of the model, and of the device that the plan counts with.
    """

    def __init__(
        self,
        owner: Sequence[str],
        tokens: Int32,
        start: Int64,
        tree: PrefixTree | None,
        shape: ModelShape,
        device: DeviceProfile,
    ) -> None:
        number: dict[str, int] = {}
        self._owner: Int64 = np.array([number.setdefault(name, len(number)) for name in owner], np.int64)
        self._sequences = np.bincount(self._owner)
        self._tokens, self._start, self._tree = tokens, start, tree
        self._shape, self._device = shape, device

    def part_of(self, waiting: Int32, running: int, estimate: Float64) -> Int32:
        """Return which sequences are given back: about half of those that wait, whole requests only.

        Parameters
        ----------
        waiting
            int32 [n]: sequences that have not been begun.
        running
            How many are computed now. Where no more than so many wait none is given: these wait for a moment
            only, and the engine that would take them has to load the model first.
        estimate
            float64 [N], tokens: expected output lengths.

        Returns
        -------
        int32
            Rising.
        """
        owner = self._owner[waiting]
        begun = np.bincount(owner, minlength=len(self._sequences)) < self._sequences
        whole = waiting[~begun[owner]]
        if whole.shape[0] <= running:
            return np.zeros(0, np.int32)
        if self._tree is None:
            self._tree = build_tree(self._tokens, self._start)
        # One sequence stands for all of a request, which have its prompt.
        first = whole[np.unique(self._owner[whole], return_index=True)[1]]
        part = part_to_move(self._tree, first, estimate, self._shape, self._device)
        chosen = np.zeros(len(self._sequences), np.bool_)
        chosen[self._owner[part]] = True
        return np.sort(whole[chosen[self._owner[whole]]])
