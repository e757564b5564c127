"""The resource-aware prefix tree: shared prefixes with the compute and memory of the requests below them.

Built from the sorted prompts and the longest common prefixes of neighbours: every inner node is an interval
of the sorted order (as in a suffix tree made from an LCP array). All state is flat arrays.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.jit import njit

if TYPE_CHECKING:
    from engine.cost import ModelShape

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class PrefixTree(NamedTuple):
    """A radix tree over N prompts; nodes ``0 .. N - 1`` are the leaves, node i for the i-th sorted prompt.

    Attributes
    ----------
    sorted
        int32 [N]: request index of each leaf, prompts in lexicographic order.
    parent
        int32 [nodes]: the last node is the root, whose parent is -1.
    depth
        int64 [nodes]: tokens from the root to the node's end.
    """

    sorted: Int32
    parent: Int32
    depth: Int64


def sort_prompts(tokens: Int32, start: Int64) -> Int32:
    """Return the request indices in lexicographic order of their tokens, equal prompts in input order."""
    # Big-endian bytes of non-negative numbers compare like the numbers.
    keys = [tokens[a:b].astype(">i4").tobytes() for a, b in itertools.pairwise(start)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int32)


@njit
def _common_prefixes(tokens: Int32, start: Int64, order: Int32) -> Int64:
    """Return int64 [N]: tokens that each sorted prompt shares with the one before it (0 for the first)."""
    common = np.zeros(order.shape[0], np.int64)
    for i in range(1, order.shape[0]):
        a, b = start[order[i - 1]], start[order[i]]
        limit = min(start[order[i - 1] + 1] - a, start[order[i] + 1] - b)
        n = 0
        while n < limit and tokens[a + n] == tokens[b + n]:
            n += 1
        common[i] = n
    return common


@njit
def _link(lengths: Int64, common: Int64) -> tuple[Int32, Int64]:
    """Return (parent, depth) of all nodes from sorted prompt lengths and neighbours' common prefixes."""
    n = lengths.shape[0]
    parent = np.full(2 * n + 1, -1, np.int32)
    # A leaf ends half a token below an inner node of the same depth, so equal prompts become siblings.
    half = np.zeros(2 * n + 1, np.int64)
    half[:n] = 2 * lengths + 1
    stack = np.empty(2 * n + 1, np.int32)
    root, nodes, top = 2 * n, n, 0
    stack[0] = root
    for i in range(n):
        depth = 2 * common[i]
        while half[stack[top]] > depth:
            node = stack[top]
            top -= 1
            if half[stack[top]] < depth:
                half[nodes] = depth
                top += 1
                stack[top] = nodes
                nodes += 1
            parent[node] = stack[top]
        top += 1
        stack[top] = i
    while top > 0:
        parent[stack[top]] = stack[top - 1]
        top -= 1
    # The root takes the number after the last inner node.
    for node in range(nodes):
        if parent[node] == root:
            parent[node] = nodes
    parent[nodes] = -1
    return parent[: nodes + 1], half[: nodes + 1] // 2


def build_tree(tokens: Int32, start: Int64) -> PrefixTree:
    """Return the prefix tree of the prompts ``tokens[start[i]:start[i + 1]]``, i < N."""
    order = sort_prompts(tokens, start)
    lengths = np.diff(start)[order]
    parent, depth = _link(lengths, _common_prefixes(tokens, start, order))
    return PrefixTree(order, parent, depth)


def distinct_tokens(tree: PrefixTree) -> int:
    """Return the number of tokens of all edges: what must be computed when every prefix is computed once."""
    edges = tree.depth[:-1] - tree.depth[tree.parent[:-1]]
    return int(edges.sum())


def hit_rate_optimum(tree: PrefixTree) -> float:
    """Return the best possible hit rate with unlimited memory.

    ``(prompt tokens - distinct tokens - one token per fully cached prompt) / prompt tokens``: the last token
    of a prompt is always computed, because its logits give the first token of the answer.
    """
    n = tree.sorted.shape[0]
    total = int(tree.depth[:n].sum())
    if total == 0:
        return 0.0
    # Leaves without tokens of their own. At each node the first of them, run first, computes the node's
    # last token anyway; the others find their whole prompt in the cache.
    empty = np.flatnonzero(tree.depth[:n] == tree.depth[tree.parent[:n]])
    cached = empty.shape[0] - np.unique(tree.parent[empty]).shape[0]
    return float((total - distinct_tokens(tree) - cached) / total)


class NodeCosts(NamedTuple):
    """Sums over each subtree, after sharing: compute and memory seconds, float64 [nodes]."""

    compute: Float64
    memory: Float64


def node_costs(
    tree: PrefixTree, output: Float64, shape: ModelShape, flops: float, read_bytes: float
) -> tuple[NodeCosts, Float64, Float64]:
    """Return the subtree sums, and the compute and memory seconds of each request after sharing.

    The prefill of a node's tokens counts once; each request below bears an equal part of it, so that the
    figures per request add up to the sum of the tree.

    Parameters
    ----------
    output
        float64 [N]: expected output tokens by request index.
    flops, read_bytes
        F and W of the device.
    """
    n, nodes = tree.sorted.shape[0], tree.parent.shape[0]
    depth = tree.depth.astype(np.float64)
    above = np.concatenate((depth[tree.parent[:-1]], [0.0]))
    nothing = np.zeros(nodes)
    own = (
        2.0 * (depth - above) * shape.body_parameters
        + 2.0 * (depth**2 - above**2) * shape.query_size * shape.layers
    )
    d = output[tree.sorted]
    decode = shape.request_flops(nothing[:n], nothing[:n], d)
    memory = shape.request_kv_bytes(depth[:n], d) / read_bytes
    # Depth falls towards the root, so one pass in that order sees children before parents.
    order = np.lexsort((np.arange(nodes) >= n, -tree.depth))
    compute_sum, memory_sum, count = own / flops, np.zeros(nodes), np.zeros(nodes)
    compute_sum[:n] += decode / flops
    memory_sum[:n], count[:n] = memory, 1
    share = own / flops
    _sum_up(order, tree.parent, compute_sum, memory_sum, count)
    _hand_down(order[::-1].copy(), tree.parent, share, count)
    per_request = np.empty(n), np.empty(n)
    per_request[0][tree.sorted] = share[:n] + decode / flops
    per_request[1][tree.sorted] = memory
    return NodeCosts(compute_sum, memory_sum), per_request[0], per_request[1]


@njit
def _sum_up(order: Int64, parent: Int32, compute: Float64, memory: Float64, count: Float64) -> None:
    for node in order:
        above = parent[node]
        if above >= 0:
            compute[above] += compute[node]
            memory[above] += memory[node]
            count[above] += count[node]


@njit
def _hand_down(order: Int64, parent: Int32, share: Float64, count: Float64) -> None:
    """Turn each node's own cost into the cost per request of its whole path from the root."""
    for node in order:
        share[node] /= max(count[node], 1.0)
        if parent[node] >= 0:
            share[node] += share[parent[node]]


def depth_first(tree: PrefixTree, key: Float64 | None = None) -> Int32:
    """Return the request indices in depth-first order.

    Children are visited by `key` (float64 [nodes]), highest first (the layer-wise sort when it is the
    density), or in lexicographic order without one. Sharing is untouched by any order of children.
    """
    if key is None:
        return tree.sorted
    nodes, n = tree.parent.shape[0], tree.sorted.shape[0]
    # Stack order: the last child pushed is visited first, so children go in with the lowest key first.
    children = np.lexsort((key[:-1], tree.parent[:-1])).astype(np.int64)
    first = np.searchsorted(tree.parent[children], np.arange(nodes + 1)).astype(np.int64)
    return np.asarray(tree.sorted[_visit(children, first, nodes, n)], np.int32)


@njit
def _visit(children: Int64, first: Int64, nodes: int, leaves: int) -> Int64:
    stack, out = np.empty(nodes, np.int64), np.empty(leaves, np.int64)
    stack[0], top, found = nodes - 1, 1, 0
    while top > 0:
        top -= 1
        node = stack[top]
        if node < leaves:
            out[found] = node
            found += 1
            continue
        for i in range(first[node], first[node + 1]):
            stack[top] = children[i]
            top += 1
    return out
