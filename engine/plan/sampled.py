"""Output lengths by a sample of every subtree of the prefix tree (Zhao et al., BlendServe, ASPLOS 2026)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.jit import entry, njit

if TYPE_CHECKING:
    from engine.arrays import Bool, Float64, Int32
    from engine.plan.tree import PrefixTree


def choose_sample(tree: PrefixTree, fraction: float, seed: int = 0) -> Int32:
    """Return the requests to answer first, int32 [n]: a `fraction` of them, at least one.

    Every so-many-th leaf of the lexicographic order from a random place on, so every subtree gives its part,
    to within one request.

    Raises
    ------
    ValueError
        If `fraction` is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction: {fraction} is not above 0 and up to 1")
    n = tree.sorted.shape[0]
    count = min(n, max(1, round(fraction * n)))
    step = n / max(count, 1)
    first = np.random.default_rng(seed).uniform(0.0, step)
    places = np.minimum((first + step * np.arange(count)).astype(np.int64), n - 1)
    return np.ascontiguousarray(tree.sorted[places])


@entry()
def subtree_means(
    leaf_order: Int32, parent: Int32, length: Float64, known: Bool, limit: Float64, unknown: float
) -> Float64:
    """Return the expected length of each request: its own, else its subtree's mean, float64 [N], tokens.

    The subtree is the smallest one with more than one request. One without a sample takes the mean of its
    nearest sampled sibling (by place among the children), else that of its parent.

    Parameters
    ----------
    leaf_order, parent
        Of the prefix tree.
    length, known
        float64 [N], bool [N], by request: sampled lengths, and which are known.
    limit
        float64 [N]: most tokens of each request.
    unknown
        Part of `limit` where nothing at all is known.
    """
    n, nodes = leaf_order.shape[0], parent.shape[0]
    total, count = np.zeros(nodes), np.zeros(nodes)
    for leaf in range(n):
        request = leaf_order[leaf]
        if known[request]:
            total[leaf], count[leaf] = length[request], 1.0
    for node in range(nodes - 1):
        total[parent[node]] += total[node]
        count[parent[node]] += count[node]
    nearest = _nearest_sampled(parent, count, n)
    mean = np.full(nodes, -1.0)
    for node in range(nodes - 1, n - 1, -1):
        if nearest[node] >= 0:
            mean[node] = total[nearest[node]] / count[nearest[node]]
        elif parent[node] >= 0:
            mean[node] = mean[parent[node]]
    out = np.empty(length.shape[0])
    for leaf in range(n):
        request = leaf_order[leaf]
        found = length[request] if known[request] else mean[parent[leaf]]
        if found < 0.0:
            found = unknown * limit[request]
        out[request] = min(max(found, 1.0), limit[request])
    return out


@njit
def _nearest_sampled(parent: Int32, count: Float64, leaves: int) -> Int32:
    """Return of each inner node itself if it has a sample, else its nearest sibling that has; else -1.

    Siblings are numbered in their order. Of two that are as near it is the one before.
    """
    nodes = parent.shape[0]
    nearest = np.full(nodes, -1, np.int32)
    distance, since = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    last = np.full(nodes, -1, np.int32)
    if count[nodes - 1] > 0.0:
        nearest[nodes - 1] = nodes - 1
    for node in range(leaves, nodes - 1):
        above = parent[node]
        since[above] += 1
        if count[node] > 0.0:
            last[above], since[above] = node, 0
        nearest[node], distance[node] = last[above], since[above]
    last[:], since[:] = -1, 0
    for node in range(nodes - 2, leaves - 1, -1):
        above = parent[node]
        since[above] += 1
        if count[node] > 0.0:
            last[above], since[above] = node, 0
        if last[above] >= 0 and (nearest[node] < 0 or since[above] < distance[node]):
            nearest[node] = last[above]
    return nearest
