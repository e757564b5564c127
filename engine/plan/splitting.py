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

from engine.jit import entry
from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Float64, Int8, Int32, Int64, UInt8, UInt64
    from engine.plan.tree import PrefixTree

CLASSES: Final = (60, 32, 16, 8, 4, 2)
"""Numbers of classes that are tried; below 64, the bits of a set of classes."""
WORSE: Final = 1.25
"""Fewer classes are tried until they add this much to the disorder."""
WIDTH: Final = 8
"""Classes whose sums over subtrees are made at a time."""
BINS: Final = 2048
"""Bins of the logarithm of density from which class boundaries are chosen."""
HALVINGS: Final = 20
"""Steps of the search for the price."""


@entry()
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
            sums[top - 1, 0] += sums[top, 0]
            sums[top - 1, 1] += sums[top, 1]
            size[top - 1] += size[top]
            top -= 1
        top += 1
    place = 0
    for pool in range(top):
        for i in range(place, place + size[pool]):
            fit[i] = sums[pool, 0] / sums[pool, 1]
        place += size[pool]
    return fit


@entry()
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
    """Return the best choice of classes found that computes at most `budget` tokens again.

    Parameters
    ----------
    compute, memory
        float64 [N]: seconds of each leaf.
    """
    leaves = compute.shape[0]
    inner = tree.parent[leaves:], tree.depth[leaves:]
    bins = _bins(compute, memory)
    best = Split(np.inf, 0, np.zeros(leaves, np.int64))
    for count in CLASSES:
        density = class_densities(bins, compute, memory, count)
        alone = _alone(tree.parent, compute, memory, density)
        price = _price(*inner, alone, budget, leaves)
        disorder, tokens, _, _ = _choose(*inner, alone, price, leaves)
        if disorder > WORSE * best.disorder:
            # More classes could be told apart for the budget: from here on fewer only add to the disorder.
            break
        if disorder < best.disorder and tokens <= budget:
            best = Split(disorder, tokens, _classes(tree.parent, *inner, alone, price, leaves))
        if price == 0.0:
            break
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


@struct()
class Alone(NamedTuple):
    """What subtrees cost as a whole, each in its best class.

    Attributes
    ----------
    of_leaf
        int8 [N]: best class of each leaf.
    of_node, disorder
        int8, float64 [inner nodes]: best class of each inner node and its disorder there.
    below, classes
        float64, uint64 [inner nodes]: disorder of the leaves right below it, and the bits of their classes.
    """

    of_leaf: Int8
    of_node: Int8
    disorder: Float64
    below: Float64
    classes: UInt64


@entry()
def _alone(parent: Int32, compute: Float64, memory: Float64, density: Float64) -> Alone:
    n, count = compute.shape[0], density.shape[0]
    inner = parent.shape[0] - n
    of_leaf, of_node, best = np.zeros(n, np.int8), np.zeros(inner, np.int8), np.full(inner, np.inf)
    below, classes = np.zeros(inner), np.zeros(inner, np.uint64)
    for leaf in range(n):
        # Densities fall, and the best class is the nearest.
        low, high = 0, count - 1
        while low < high:
            middle = (low + high) // 2
            if compute[leaf] * 2.0 >= (density[middle] + density[middle + 1]) * memory[leaf]:
                high = middle
            else:
                low = middle + 1
        of_leaf[leaf] = low
        above = parent[leaf] - n
        below[above] += abs(compute[leaf] - density[low] * memory[leaf])
        classes[above] |= np.uint64(1) << np.uint64(low)
    # A few classes at a time: their sums are one cache line per node.
    total = np.zeros((inner, WIDTH))
    for first in range(0, count, WIDTH):
        total[:] = 0.0
        width = min(WIDTH, count - first)
        for leaf in range(n):
            for k in range(width):
                total[parent[leaf] - n, k] += abs(compute[leaf] - density[first + k] * memory[leaf])
        for node in range(inner):
            for k in range(width):
                if total[node, k] < best[node]:
                    of_node[node], best[node] = first + k, total[node, k]
            if parent[n + node] >= 0:
                for k in range(WIDTH):
                    total[parent[n + node] - n, k] += total[node, k]
    return Alone(of_leaf, of_node, best, below, classes)


@entry()
def _choose(
    parent: Int32, depth: Int64, alone: Alone, price: float, leaves: int
) -> tuple[float, int, UInt8, Float64]:
    """Return what is best where a token computed again costs `price` seconds.

    Parameters
    ----------
    parent, depth
        Of the inner nodes only; `parent` counts the leaves.

    Returns
    -------
    (disorder, tokens, whole, value)
        Disorder and tokens computed again of the whole tree; uint8 and float64 [inner nodes]: which subtrees
        stay whole, and seconds of each with the tokens priced in.
    """
    inner = parent.shape[0]
    classes, disorder, tokens = alone.classes.copy(), alone.below.copy(), np.zeros(inner, np.int64)
    whole, value = np.zeros(inner, np.uint8), alone.below.copy()
    for node in range(inner - 1):
        above = parent[node] - leaves
        rest, fragments = classes[node], 0
        while rest > 0:
            rest &= rest - np.uint64(1)
            fragments += 1
        again = (fragments - 1) * (depth[node] - depth[above])
        if alone.disorder[node] <= value[node] + price * again:
            whole[node] = 1
            value[node] = disorder[node] = alone.disorder[node]
            classes[node] = np.uint64(1) << np.uint64(alone.of_node[node])
            tokens[node] = 0
        else:
            value[node] += price * again
            tokens[node] += again
        value[above] += value[node]
        disorder[above] += disorder[node]
        tokens[above] += tokens[node]
        classes[above] |= classes[node]
    return disorder[inner - 1], tokens[inner - 1], whole, value


@entry()
def _classes(
    tree_parent: Int32, parent: Int32, depth: Int64, alone: Alone, price: float, leaves: int
) -> Int64:
    """Return the class of each leaf, int64 [N]: that of the topmost subtree above it that stays whole."""
    _, _, whole, _ = _choose(parent, depth, alone, price, leaves)
    of_node = alone.of_node.copy()
    for node in range(parent.shape[0] - 2, -1, -1):
        above = parent[node] - leaves
        if whole[above] == 1:
            whole[node], of_node[node] = 1, of_node[above]
    out = np.empty(leaves, np.int64)
    for leaf in range(leaves):
        above = tree_parent[leaf] - leaves
        out[leaf] = of_node[above] if whole[above] == 1 else alone.of_leaf[leaf]
    return out


@entry()
def _price(parent: Int32, depth: Int64, alone: Alone, budget: int, leaves: int) -> float:
    """Return a price per token, close to the lowest, at which at most `budget` tokens are computed again."""
    if _choose(parent, depth, alone, 0.0, leaves)[1] <= budget:
        return 0.0
    # At the higher price no token is worth it: all disorder that splits could remove is less.
    high = 2.0 * alone.disorder[parent.shape[0] - 1] + 1e-300
    low = high * 1e-12
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        if _choose(parent, depth, alone, middle, leaves)[1] <= budget:
            high = middle
        else:
            low = middle
    return float(high)
