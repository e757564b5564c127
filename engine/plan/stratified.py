"""A sample to learn answer lengths from that has something of every workload, however few requests it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from engine.arrays import Int32, Int64
    from engine.plan.tree import PrefixTree

LEAST: Final = 32
"""Requests of each workload that are sampled at least: a mean of so many is known to within a fifth or so."""
MOST: Final = 0.5
"""Part of a workload that is sampled at most: what is sampled is not blended."""


def sample_workloads(tree: PrefixTree, group: Int64, fraction: float, seed: int = 0) -> Int32:
    """Return the requests to answer first, int32 [n], in the order of the tree.

    Of each workload a `fraction`, but at least `LEAST` and at most the part `MOST`: every so-many-th of its
    leaves from a random place on, so every subtree gives its part.

    Parameters
    ----------
    group
        int64 [N]: workload of each request.

    Raises
    ------
    ValueError
        If `fraction` is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction: {fraction} is not above 0 and up to 1")
    rng, leaves = np.random.default_rng(seed), group[tree.sorted]
    taken = np.zeros(leaves.shape[0], np.bool_)
    for one in np.unique(leaves):
        mine = np.flatnonzero(leaves == one)
        count = max(1, min(max(LEAST, round(fraction * mine.size)), int(MOST * mine.size)))
        step = mine.size / count
        places = rng.uniform(0.0, step) + step * np.arange(count)
        taken[mine[np.minimum(places.astype(np.int64), mine.size - 1)]] = True
    return np.ascontiguousarray(tree.sorted[taken])
