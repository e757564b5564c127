"""The resource-aware prefix tree: shared prefixes with the compute and memory of the requests below them.

Built from the sorted prompts and the longest common prefixes of neighbours: every inner node is an interval
of the sorted order (as in a suffix tree made from an LCP array). All state is flat arrays, and everything
here takes time and memory in proportion to the prompts, but for the sorting of siblings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engine.jit import entry
from engine.plan.sort import sort_pairs, sort_prompts

if TYPE_CHECKING:
    from engine.arrays import Float64, Int32, Int64, UInt64
    from engine.cost.step import ModelShape

SLICE: Final = 1 << 20
"""Nodes or requests handed to the cost model at a time."""


class PrefixTree(NamedTuple):
    """A radix tree over N prompts; nodes ``0 .. N - 1`` are the leaves, node i for the i-th sorted prompt.

    Inner nodes are numbered as a depth-first walk leaves them, so every node comes before its parent.

    Attributes
    ----------
    sorted
        int32 [N]: request index of each leaf, prompts in lexicographic order.
    parent
        int32 [nodes]: the last node is the root, whose parent is -1.
    depth
        int64 [nodes]: tokens from the root to the node's end.
    common
        int32 [N]: tokens that each leaf shares with the one before it; 0 for the first.
    """

    sorted: Int32
    parent: Int32
    depth: Int64
    common: Int32


@entry()
def _link(lengths: Int64, common: Int32) -> tuple[Int32, Int64]:
    """Return (parent, depth) of all nodes from leaf lengths and neighbours' common prefixes."""
    n = lengths.shape[0]
    # A leaf ends half a token below an inner node of the same depth, so equal prompts become siblings.
    half = np.zeros(2 * n + 1, np.int64)
    for leaf in range(n):
        half[leaf] = 2 * lengths[leaf] + 1
    # Nodes get a first number when they are opened, and their own when they are closed.
    above, number = np.full(2 * n + 1, -1, np.int32), np.arange(2 * n + 1, dtype=np.int32)
    stack = np.empty(2 * n + 1, np.int32)
    root, opened, closed, top = n, n + 1, n, 0
    stack[0] = root
    for i in range(n + 1):
        depth = np.int64(2) * common[i] if i < n else np.int64(0)
        while half[stack[top]] > depth:
            node = stack[top]
            top -= 1
            if node >= n:
                number[node] = closed
                closed += 1
            if half[stack[top]] < depth:
                half[opened] = depth
                top += 1
                stack[top] = opened
                opened += 1
            above[node] = stack[top]
        if i < n:
            top += 1
            stack[top] = i
    number[root] = closed
    parent, depths = np.full(opened, -1, np.int32), np.zeros(opened, np.int64)
    for node in range(opened):
        depths[number[node]] = half[node] // 2
        if above[node] >= 0:
            parent[number[node]] = number[above[node]]
    return parent, depths


def link_tree(order: Int32, lengths: Int64, common: Int32) -> PrefixTree:
    """Return the tree of prompts in a given order, where only neighbours share.

    For the lexicographic order it is the prefix tree. For another order it says what that order computes: a
    subtree that is cut in two has its path twice.

    Parameters
    ----------
    order
        int32 [N]: request indices.
    lengths
        int64 [N], tokens: prompt length at each place of the order.
    common
        int32 [N], tokens: what each prompt of the order shares with the one before it; 0 for the first.
    """
    parent, depth = _link(lengths, common)
    return PrefixTree(order, parent, depth, common)


def build_tree(tokens: Int32, start: Int64) -> PrefixTree:
    """Return the prefix tree of the prompts ``tokens[start[i]:start[i + 1]]``, i < N."""
    order, common = sort_prompts(tokens, start)
    return link_tree(order, np.diff(start)[order], common)


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
    return float((total - distinct_tokens(tree) - _fully_cached(tree.parent, tree.depth, n)) / total)


@entry()
def _fully_cached(parent: Int32, depth: Int64, leaves: int) -> int:
    """Return how many prompts are the whole prefix of one that came before.

    They are leaves without tokens of their own. At each node the first of them, run first, computes the
    node's last token anyway; the others find their whole prompt in the cache.
    """
    seen = np.zeros(parent.shape[0], np.uint8)
    found = 0
    for leaf in range(leaves):
        if depth[leaf] == depth[parent[leaf]]:
            found += seen[parent[leaf]]
            seen[parent[leaf]] = 1
    return int(found)


def cached_tokens(tree: PrefixTree) -> Int64:
    """Return for each request the prompt tokens that a lexicographic pass finds computed already.

    The last token of a prompt is always computed, so the sum over all prompts is `hit_rate_optimum` times the
    prompt tokens.

    Returns
    -------
    int64 [N], tokens, by request index.
    """
    # In sorted order the longest shared prefix is the one with the prompt before.
    lengths = tree.depth[: tree.sorted.shape[0]]
    by_request = np.zeros(lengths.shape[0], np.int64)
    by_request[tree.sorted] = np.maximum(np.minimum(tree.common, lengths - 1), 0)
    return by_request


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
        float64 [N]: expected output tokens by request index; of all requests, also where the tree has only
        some of them (the others then cost nothing).
    flops, read_bytes
        F and W of the device.
    """
    n, nodes = tree.sorted.shape[0], tree.parent.shape[0]
    own = np.empty(nodes)
    # In slices, so that the temporary arrays of the cost model stay small beside the tree.
    for lo in range(0, nodes, SLICE):
        hi = min(lo + SLICE, nodes)
        depth = tree.depth[lo:hi].astype(np.float64)
        above = tree.depth[tree.parent[lo:hi]].astype(np.float64)
        nothing = np.zeros(hi - lo)
        # The LM head is part of the answer.
        head = shape.request_flops(nothing[:1], nothing[:1], nothing[:1])
        own[lo:hi] = (shape.request_flops(depth, above, nothing) - head) / flops
    d = np.ascontiguousarray(output[tree.sorted], np.float64)
    decode, memory = np.empty(n), np.empty(n)
    for lo in range(0, n, SLICE):
        part = slice(lo, lo + SLICE)
        nothing = np.zeros(d[part].shape[0])
        decode[part] = shape.request_flops(nothing, nothing, d[part]) / flops
        memory[part] = shape.request_kv_bytes(tree.depth[:n][part].astype(np.float64), d[part]) / read_bytes
    return _add_up(tree.sorted, tree.parent, own, decode, memory, output.shape[0])


@entry()
def _add_up(
    leaf_order: Int32, parent: Int32, own: Float64, decode: Float64, memory: Float64, requests: int
) -> tuple[NodeCosts, Float64, Float64]:
    """Sum up towards the root, and hand the cost of each path down to its leaves; `own` is used up."""
    n, nodes = leaf_order.shape[0], parent.shape[0]
    compute_sum, memory_sum, count = own.copy(), np.zeros(nodes), np.zeros(nodes, np.int32)
    for leaf in range(n):
        compute_sum[leaf] += decode[leaf]
        memory_sum[leaf] = memory[leaf]
        count[leaf] = 1
    for node in range(nodes - 1):
        above = parent[node]
        compute_sum[above] += compute_sum[node]
        memory_sum[above] += memory_sum[node]
        count[above] += count[node]
    request_compute, request_memory = np.zeros(requests), np.zeros(requests)
    for node in range(nodes - 1, -1, -1):
        own[node] /= max(count[node], 1)
        if parent[node] >= 0:
            own[node] += own[parent[node]]
        if node < n:
            request_compute[leaf_order[node]] = own[node] + decode[node]
            request_memory[leaf_order[node]] = memory[node]
    return NodeCosts(compute_sum, memory_sum), request_compute, request_memory


def falling(key: Float64) -> UInt64:
    """Return unsigned integers that are in the opposite order of the numbers in `key` (none is NaN)."""
    # Adding zero turns -0.0 into 0.0. As integers, negative floats are in reverse order.
    bits = (key + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, bits, bits ^ (sign - np.uint64(1)))


@entry()
def depth_first_leaves(parent: Int32, rank: UInt64, leaves: int) -> Int32:
    """Return the leaf numbers, int32 [leaves], depth-first with the children of lowest `rank` first.

    Parameters
    ----------
    parent
        int32 [nodes]: as in `PrefixTree`, each node before its parent, the root last.
    rank
        uint64 [nodes]; children of equal rank are visited by their number.
    """
    nodes = parent.shape[0]
    first = np.zeros(nodes + 1, np.int32)
    for node in range(nodes - 1):
        first[parent[node] + 1] += 1
    for node in range(nodes):
        first[node + 1] += first[node]
    place, children, keys = first[:nodes].copy(), np.empty(nodes, np.int32), np.empty(nodes, np.uint64)
    for node in range(nodes - 1):
        at = place[parent[node]]
        children[at], keys[at] = node, rank[node]
        place[parent[node]] = at + 1
    stack, out = place, np.empty(leaves, np.int32)
    stack[0], top, found = nodes - 1, 1, 0
    while top > 0:
        top -= 1
        node = stack[top]
        if node < leaves:
            out[found] = node
            found += 1
            continue
        sort_pairs(keys, children, first[node], first[node + 1])
        for i in range(first[node + 1] - 1, first[node] - 1, -1):
            stack[top] = children[i]
            top += 1
    return out


@entry()
def _leaf_ranges(parent: Int32, leaves: int) -> tuple[Int32, Int32]:
    nodes = parent.shape[0]
    first, count = np.full(nodes, leaves, np.int32), np.zeros(nodes, np.int32)
    for node in range(nodes):
        if node < leaves:
            first[node], count[node] = node, 1
        above = parent[node]
        if above >= 0:
            first[above] = min(first[above], first[node])
            count[above] += count[node]
    return first, count


def leaf_ranges(tree: PrefixTree) -> tuple[Int32, Int32]:
    """Return the first leaf below each node and the number of leaves, int32 [nodes]: they are neighbours."""
    return _leaf_ranges(tree.parent, tree.sorted.shape[0])
