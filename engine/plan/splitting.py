"""Conditional node splitting: which subtrees leave their place, so that the densities of an order fall.

The leaves are put into classes of similar density, and an order goes class by class, depth-first in each. A
node whose leaves are of several classes is split: each class computes its path once more, with all siblings
that go there. Whether that pays is decided for the largest subtrees possible, at one price per token for the
whole tree: a split is made if the disorder it removes is worth its tokens, which is the choice by greatest
gain per token. Fragments that buy no sharing are cheap to split, so they merge into their classes.

Splits one by one, each at its own landing place, were tried and fell behind: a fragment that leaves its node
finds no order to fit into while all other nodes still span all densities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engine.jit import njit

if TYPE_CHECKING:
    from engine.plan.tree import Float64, Int32, Int64, PrefixTree

CLASSES: Final = (2, 4, 8, 16, 32, 60)
"""Numbers of classes that are tried; below 64, the bits of a set of classes."""
BINS: Final = 2048
"""Bins of the logarithm of density from which class boundaries are chosen."""
HALVINGS: Final = 20
"""Steps of the search for the price."""


@njit
def fit_falling(compute: Float64, memory: Float64) -> Float64:
    """Return the falling densities closest to those of a sequence, weighted by memory, float64 [N].

    The isotonic regression by pooling adjacent violators: a pool has the density of its sums.
    """
    n = compute.shape[0]
    fit, size = np.empty(n), np.empty(n, np.int64)
    sums = np.empty((n, 2))
    top = 0
    for i in range(n):
        sums[top, 0], sums[top, 1], size[top] = compute[i], max(memory[i], 1e-300), 1
        while top > 0 and sums[top - 1, 0] * sums[top, 1] < sums[top, 0] * sums[top - 1, 1]:
            sums[top - 1] += sums[top]
            size[top - 1] += size[top]
            top -= 1
        top += 1
    place = 0
    for pool in range(top):
        fit[place : place + size[pool]] = sums[pool, 0] / sums[pool, 1]
        place += size[pool]
    return fit


@njit
def violation_of(compute: Float64, memory: Float64, fit: Float64) -> float:
    """Return the compute seconds that are out of place: the sum of ``memory |density - fit|``."""
    total = 0.0
    for i in range(compute.shape[0]):
        total += abs(compute[i] - fit[i] * memory[i])
    return float(total)


def violation(compute: Float64, memory: Float64) -> float:
    """Return by how many compute seconds a sequence of requests misses falling densities."""
    return violation_of(compute, memory, fit_falling(compute, memory))


class Split(NamedTuple):
    """A choice of classes.

    Attributes
    ----------
    disorder
        Modelled compute seconds out of place: each request against the density of its class.
    tokens
        Tokens computed again.
    of_leaf
        int64 [N]: the class of each leaf, 0 the densest.
    """

    disorder: float
    tokens: int
    of_leaf: Int64


def find_split(tree: PrefixTree, compute: Float64, memory: Float64, budget: int) -> Split:
    """Return the best choice of classes that computes at most `budget` tokens again.

    Parameters
    ----------
    compute, memory
        float64 [N]: seconds of each leaf.
    """
    bins = _bins(compute, memory)
    best = Split(np.inf, 0, np.zeros(compute.shape[0], np.int64))
    for count in CLASSES:
        density = class_densities(bins, compute, memory, count)
        of_node, disorder = _alone(tree.parent, compute, memory, density)
        arrays = tree.parent, tree.depth, of_node, disorder
        price = _price(*arrays, budget, compute.shape[0])
        found = Split(*_choose(*arrays, price, compute.shape[0]))
        if found.disorder < best.disorder and found.tokens <= budget:
            best = found
    return best


def _bins(compute: Float64, memory: Float64) -> Int64:
    """Return the bin of each density, 0 the densest, int64 [N]."""
    logs = np.log(np.maximum(memory, 1e-300)) - np.log(np.maximum(compute, 1e-300))
    low, high = float(logs.min()), float(logs.max())
    scale = BINS / (high - low) if high > low else 0.0
    return np.minimum((logs - low) * scale, BINS - 1).astype(np.int64)


def class_densities(bins: Int64, compute: Float64, memory: Float64, count: int) -> Float64:
    """Return the densities of at most `count` classes with equal parts of all work, highest first."""
    by_bin = np.stack([np.bincount(bins, weights, BINS) for weights in (compute, memory)])
    # Work counts by its part of what the scarcer resource has to do.
    part = (by_bin / np.maximum(by_bin.sum(axis=1, keepdims=True), 1e-300)).sum(axis=0) / 2
    number = np.minimum((np.cumsum(part) - part / 2) * count, count - 1).astype(np.int64)
    sums = [np.bincount(number, weights, count) for weights in by_bin]
    used = sums[0] + sums[1] > 0
    return np.asarray(sums[0][used] / np.maximum(sums[1][used], 1e-300))


@njit
def _alone(parent: Int32, compute: Float64, memory: Float64, density: Float64) -> tuple[Int32, Float64]:
    """Return the best class of each subtree as a whole, and its disorder there."""
    nodes, n = parent.shape[0], compute.shape[0]
    of_node, best = np.zeros(nodes, np.int32), np.full(nodes, np.inf)
    total = np.empty(nodes)
    for k in range(density.shape[0]):
        total[n:] = 0.0
        for leaf in range(n):
            total[leaf] = abs(compute[leaf] - density[k] * memory[leaf])
        for node in range(nodes):
            if total[node] < best[node]:
                of_node[node], best[node] = k, total[node]
            if parent[node] >= 0:
                total[parent[node]] += total[node]
    return of_node, best


@njit
def _choose(
    parent: Int32, depth: Int64, of_node: Int32, alone: Float64, price: float, leaves: int
) -> tuple[float, int, Int64]:
    """Return disorder, tokens and classes of leaves where a token computed again costs `price` seconds."""
    nodes = parent.shape[0]
    classes, disorder, tokens = np.zeros(nodes, np.uint64), np.zeros(nodes), np.zeros(nodes, np.int64)
    whole = np.zeros(nodes, np.uint8)
    # Seconds with the tokens priced in; the sums of the children until the node itself is reached.
    value = np.zeros(nodes)
    for node in range(nodes):
        above = parent[node]
        again = 0
        if above >= 0 and node >= leaves:
            rest = classes[node]
            fragments = 0
            while rest > 0:
                rest &= rest - np.uint64(1)
                fragments += 1
            again = (fragments - 1) * (depth[node] - depth[above])
        if above >= 0 and (node < leaves or alone[node] <= value[node] + price * again):
            whole[node] = 1
            value[node], disorder[node], tokens[node] = alone[node], alone[node], 0
            classes[node] = np.uint64(1) << np.uint64(of_node[node])
        else:
            value[node] += price * again
            tokens[node] += again
        if above >= 0:
            value[above] += value[node]
            disorder[above] += disorder[node]
            tokens[above] += tokens[node]
            classes[above] |= classes[node]
    of_leaf = np.zeros(leaves, np.int64)
    chosen = of_node.copy()
    for node in range(nodes - 2, -1, -1):
        if whole[parent[node]] == 1:
            whole[node], chosen[node] = 1, chosen[parent[node]]
        if node < leaves:
            of_leaf[node] = chosen[node]
    return disorder[nodes - 1], tokens[nodes - 1], of_leaf


@njit
def _price(parent: Int32, depth: Int64, of_node: Int32, alone: Float64, budget: int, leaves: int) -> float:
    """Return a price per token, close to the lowest, at which at most `budget` tokens are computed again."""
    if _choose(parent, depth, of_node, alone, 0.0, leaves)[1] <= budget:
        return 0.0
    # At the higher price no token is worth it: all disorder that splits could remove is less.
    high = 2.0 * alone[parent.shape[0] - 1] + 1e-300
    low = high * 1e-12
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        if _choose(parent, depth, of_node, alone, middle, leaves)[1] <= budget:
            high = middle
        else:
            low = middle
    return float(high)
