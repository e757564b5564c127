"""Orders of the leaves of a prefix tree, and what an order keeps of the sharing.

Every function that returns an order returns it as a `PrefixTree` made by `arrange`: the requests in that
order, linked so that only neighbours share. Its sums are what the order computes.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.jit import entry
from engine.plan.splitting import find_split, violation
from engine.plan.tree import PrefixTree, depth_first_leaves, falling, link_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from engine.arrays import Float64, Int32, Int64
    from engine.plan.tree import NodeCosts

    CostOf = Callable[[PrefixTree], tuple[NodeCosts, Float64, Float64]]
    Accept = Callable[[Int32], float]

KEPT: Final = 0.99
"""Part of the saved tokens that an order must keep."""
IMMATERIAL: Final = 0.001
"""If all sharing is of less than this part of the prompt tokens, an order need not keep any of it.

Where prompts share next to nothing (a first token, by chance), keeping those few together would cost the
whole blend and save nothing.
"""
SMOOTH: Final = 1e-3
"""A violation below this part of the compute is left as it is."""
TRIES: Final = 3
"""Splits tried, each with half the tokens of the one before."""
_BLOCK: Final = 64


@entry()
def _minima(common: Int32, leaves: Int32) -> Int32:
    """Return the least of `common` between neighbours of `leaves`, by a sparse table over blocks."""
    n, m = common.shape[0], leaves.shape[0]
    blocks, levels = n // _BLOCK + 1, 1
    while 1 << levels <= blocks:
        levels += 1
    table = np.zeros((levels, blocks), np.int32)
    for block in range(n // _BLOCK):
        first = block * _BLOCK
        table[0, block] = common[first]
        for i in range(first + 1, first + _BLOCK):
            table[0, block] = min(table[0, block], common[i])
    for level in range(1, levels):
        for block in range(blocks - (1 << level) + 1):
            table[level, block] = min(table[level - 1, block], table[level - 1, block + (1 << (level - 1))])
    out = np.zeros(m, np.int32)
    for k in range(1, m):
        lo, hi = min(leaves[k - 1], leaves[k]) + 1, max(leaves[k - 1], leaves[k]) + 1
        least = common[lo]
        while lo < hi and (lo % _BLOCK != 0 or hi - lo < _BLOCK):
            least = min(least, common[lo])
            lo += 1
        while lo < hi and hi % _BLOCK != 0:
            hi -= 1
            least = min(least, common[hi])
        if lo < hi:
            first, last, level = lo // _BLOCK, hi // _BLOCK, 0
            while 2 << level <= last - first:
                level += 1
            least = min(least, table[level, first], table[level, last - (1 << level)])
        out[k] = least
    return out


def arrange(tree: PrefixTree, leaves: Int32) -> PrefixTree:
    """Return the requests in the order of `leaves` (int32 [n], leaf numbers of `tree`), n at most N."""
    return link_tree(tree.sorted[leaves], tree.depth[leaves], _minima(tree.common, leaves))


def saved_tokens(tree: PrefixTree) -> int:
    """Return the prompt tokens that need not be computed where neighbours share."""
    return int(tree.common.sum(dtype=np.int64))


def allowance(tree: PrefixTree) -> int:
    """Return how many tokens more than by the prefix tree an order may compute."""
    prompt = int(tree.depth[: tree.sorted.shape[0]].sum())
    saved = saved_tokens(tree)
    return saved if saved <= IMMATERIAL * prompt else int((1 - KEPT) * saved)


def densities(costs: NodeCosts) -> Float64:
    """Return compute over memory seconds of each node, float64 [nodes]."""
    return costs.compute / np.maximum(costs.memory, 1e-12)


def layer_wise(tree: PrefixTree, costs: NodeCosts) -> Int32:
    """Return the leaves depth-first with the densest child first: compute-heavy left, sharing untouched."""
    return depth_first_leaves(tree.parent, falling(densities(costs)), tree.sorted.shape[0])


def blend(tree: PrefixTree, cost_of: CostOf, accept: Accept | None = None) -> PrefixTree:
    """Return an order from compute-heavy to memory-heavy that keeps the sharing.

    The layer-wise sort; then, where that leaves densities out of their falling order, the same in classes of
    density between which nodes are split (`engine.plan.splitting`; conditional node splitting, Zhao et al.,
    BlendServe, ASPLOS 2026), if the violation falls and all but `allowance` of the saved tokens stay saved.

    Parameters
    ----------
    tree
        Of requests 0 .. N - 1.
    cost_of
        Sums per node, and compute and memory seconds per request, of a tree (`node_costs`).
    accept
        Modelled seconds of an order (int32 [N]). A split that makes them worse is not made.
    """
    costs, compute, memory = cost_of(tree)
    plain = arrange(tree, layer_wise(tree, costs))
    before = violation(compute[plain.sorted], memory[plain.sorted])
    compute, memory = compute[tree.sorted], memory[tree.sorted]
    if before <= SMOOTH * compute.sum():
        return plain
    least, budget = saved_tokens(tree) - allowance(tree), allowance(tree)
    for _ in range(TRIES):
        found = _split(tree, compute, memory, cost_of, budget)
        _, *again = cost_of(found)
        after = violation(again[0][found.sorted], again[1][found.sorted])
        if after < before and saved_tokens(found) >= least:
            better = accept is None or accept(found.sorted) <= accept(plain.sorted)
            return found if better else plain
        budget //= 2
    return plain


def _split(tree: PrefixTree, compute: Float64, memory: Float64, cost_of: CostOf, budget: int) -> PrefixTree:
    of_leaf = find_split(tree, compute, memory, budget).of_leaf
    of_request = np.empty(of_leaf.shape[0], np.int64)
    of_request[tree.sorted] = of_leaf
    parts = by_segment(tree, of_request)
    return join(tree, [part.sorted[layer_wise(part, cost_of(part)[0])] for part in parts])[0]


def interleave(tree: PrefixTree, group: npt.NDArray[np.integer]) -> PrefixTree:
    """Return the groups mixed in proportion, each depth-first: all of them last to the end.

    Parameters
    ----------
    group
        Integers [N]: the group (workload) of each request.
    """
    _, member = np.unique(group, return_inverse=True)
    of_leaf = member[tree.sorted]
    count = np.maximum(np.bincount(of_leaf), 1)
    by_group = np.argsort(of_leaf, kind="stable")
    within = np.empty(of_leaf.shape[0])
    within[by_group] = np.arange(of_leaf.shape[0]) - np.repeat(np.cumsum(count) - count, count)
    place = (within + 0.5) / count[of_leaf]
    return arrange(tree, np.lexsort((of_leaf, place)).astype(np.int32))


def segments_of(
    priority: Int64 | None, window: Int64 | None, requests: int, first: Int32 | None = None
) -> Int64:
    """Return the number of each request's segment, int64 [N], first segment 0.

    A higher priority comes first; among equals the earlier deadline window. Negative windows stand for no
    deadline and come last.

    Parameters
    ----------
    priority
        int64 [N] or None: no request differs.
    window
        int64 [N] or None: number of the deadline window, rising with time.
    first
        int32 [n] or None: requests that come before their equals.
    """
    rank = np.zeros(requests, np.int64) if priority is None else -np.asarray(priority, np.int64)
    last = np.zeros(requests, np.int64) if window is None else np.asarray(window, np.int64)
    none = np.iinfo(np.int64).max
    behind = np.ones(requests, np.int64)
    if first is not None:
        behind[first] = 0
    by_rank = np.unique(rank, return_inverse=True)[1].reshape(-1)
    by_end = np.unique(np.where(last < 0, none, last), return_inverse=True)[1].reshape(-1)
    key = 2 * (by_rank * (by_end.max(initial=0) + 1) + by_end) + behind
    _, segment = np.unique(key, return_inverse=True)
    return segment.reshape(-1).astype(np.int64)


def by_segment(tree: PrefixTree, segment: Int64) -> list[PrefixTree]:
    """Return the prefix tree of each segment's requests, first segment first; request indices stay."""
    # The tree may have requests of some segments only.
    of_leaf = np.unique(segment[tree.sorted], return_inverse=True)[1].reshape(-1)
    if of_leaf.max(initial=0) < 1 << 16:
        # numpy sorts 16 bits by radix.
        of_leaf = of_leaf.astype(np.uint16)
    leaves = np.argsort(of_leaf, kind="stable").astype(np.int32)
    common = _minima(tree.common, leaves)
    bounds = np.cumsum([0, *np.bincount(of_leaf)])
    common[bounds[:-1]] = 0
    return [
        link_tree(tree.sorted[leaves[a:b]], tree.depth[leaves[a:b]], common[a:b])
        for a, b in itertools.pairwise(bounds.tolist())
    ]


def join(tree: PrefixTree, parts: list[Int32]) -> tuple[PrefixTree, Int64]:
    """Return lists of requests one after the other; int64 [k + 1]: where each begins and the last ends."""
    requests = np.concatenate(parts)
    bounds = np.cumsum([0, *(part.shape[0] for part in parts)]).astype(np.int64)
    return arrange(tree, leaf_of(tree)[requests]), bounds


def leaf_of(tree: PrefixTree) -> Int32:
    """Return the leaf number of each request, int32 [highest request + 1]; -1 for one not in the tree."""
    leaf = np.full(int(tree.sorted.max(initial=-1)) + 1, -1, np.int32)
    leaf[tree.sorted] = np.arange(tree.sorted.shape[0], dtype=np.int32)
    return leaf
