"""Distributions of answer lengths as histograms, learnt from answers of which some have not ended yet.

An answer that still runs, or was cut off by its limit, is right-censored: its length is above what is there.
Finished answers alone are biased low, because short ones finish first. Every distribution is therefore the
posterior of a beta-Stacy process (Walker and Muliere, Annals of Statistics 25, 1997), the conjugate prior for
right-censored data. With a prior distribution F of weight w, the chance of ending in bin b, once there, is

    hazard(b) = (w F{b} + ended in b) / (w F{b or above} + at risk in b)

Without censoring that is the mixture ``(n empirical + w F) / (n + w)``; without a prior, Kaplan-Meier.

Bins are one token wide up to 16 tokens, then an eighth of a power of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.jit import entry, njit

if TYPE_CHECKING:
    from engine.arrays import Float64, Int8, Int32, Int64

BINS = 128
_FINE = 16
LONGEST = (1 << 18) - 1
"""Longer answers count as this long."""


@entry()
def bin_of(tokens: float) -> int:
    """Return the bin of a length of at least 0 tokens; 0 and 1 token have bins of their own."""
    length = min(max(int(tokens), 0), LONGEST)
    if length < _FINE:
        return length
    power = 0
    while length >> (power + 4) > 0:
        power += 1
    return _FINE + 8 * (power - 1) + ((length >> power) & 7)


@entry()
def first_of(which: int) -> int:
    """Return the smallest length of a bin; of bin `BINS`, the end of the last one."""
    if which < _FINE:
        return which
    power = (which - _FINE) // 8 + 1
    return (8 + (which - _FINE) % 8) << power


@entry()
def bin_values() -> Float64:
    """Return the mean length of each bin, float64 [BINS], tokens."""
    out = np.empty(BINS)
    for b in range(BINS):
        out[b] = 0.5 * (first_of(b) + first_of(b + 1) - 1)
    return out


@entry()
def count_answers(node: Int32, length: Float64, ended: Int8, weight: Float64, nodes: int) -> Float64:
    """Count answers by node and bin.

    Parameters
    ----------
    node
        int32 [n]: where each answer counts.
    length, ended
        float64 [n], tokens; int8 [n]: 1 if the answer ended there, 0 if it is at least one token longer, or
        was cut off.
    weight
        float64 [n].

    Returns
    -------
    float64 [nodes, 2, BINS]: weight of the answers that ended, and of the others.
    """
    out = np.zeros((nodes, 2, BINS))
    for i in range(node.shape[0]):
        out[node[i], 0 if ended[i] else 1, bin_of(length[i])] += weight[i]
    return out


@entry(dims={"counts": 3})
def add_to_parents(counts: Float64, parent: Int32) -> None:
    """Add the counts of every node to those above it; parents have lower numbers, node 0 is the root."""
    for node in range(parent.shape[0] - 1, 0, -1):
        above = parent[node]
        for kind in range(counts.shape[1]):
            for b in range(counts.shape[2]):
                counts[above, kind, b] += counts[node, kind, b]


@njit
def posterior(prior: Float64, weight: float, counts: Float64, out: Float64) -> None:
    """Write the distribution (float64 [BINS]) after `counts` (float64 [2, BINS]) to `out`.

    A censored answer counts as at risk in half of the bin that it has reached.
    """
    at_risk, above = 0.0, 0.0
    risk, before = np.empty(BINS), np.empty(BINS)
    for b in range(BINS - 1, -1, -1):
        risk[b] = at_risk + counts[0, b] + 0.5 * counts[1, b]
        at_risk += counts[0, b] + counts[1, b]
        above += prior[b]
        before[b] = above
    left = 1.0
    for b in range(BINS):
        possible = weight * before[b] + risk[b]
        ends = min(1.0, (weight * prior[b] + counts[0, b]) / possible) if possible > 1e-12 else 0.0
        out[b] = left * ends
        left *= 1.0 - ends
    # Nothing is known above the longest answer that has been seen at all.
    out[last_bin(prior)] += left


@njit
def last_bin(distribution: Float64) -> int:
    """Return the highest bin with any probability."""
    for b in range(BINS - 1, 0, -1):
        if distribution[b] > 0.0:
            return b
    return 0


@entry(dims={"counts": 3})
def fit_nodes(parent: Int32, root: Float64, weight: Float64, counts: Float64) -> Float64:
    """Return the distribution of every node, float64 [nodes, BINS]: each is the prior of those below it.

    Parameters
    ----------
    root
        float64 [BINS]: the prior of node 0.
    weight
        float64 [nodes]: of each one's prior, in answers.
    counts
        float64 [nodes, 2, BINS], those of a node including all below it.
    """
    out = np.empty((parent.shape[0], BINS))
    for node in range(parent.shape[0]):
        prior = root if node == 0 else out[parent[node]]
        posterior(prior, weight[node], counts[node], out[node])
    return out


@entry(dims={"distribution": 2})
def hazard_sums(distribution: Float64) -> Float64:
    """Return the cumulative hazard up to the end of each bin, float64 [nodes, BINS]."""
    out = np.zeros_like(distribution)
    for node in range(distribution.shape[0]):
        left, total = 1.0, 0.0
        for b in range(BINS):
            total += min(1.0, distribution[node, b] / left) if left > 1e-9 else 1.0
            left -= distribution[node, b]
            out[node, b] = total
    return out


@njit
def expected_ends(sums: Float64, node: Int32, length: Float64, ratio: float) -> float:
    """Return how many of these answers should have ended by now, if all are `ratio` times as long.

    The sum of the cumulative hazards that they have passed: a martingale, whether they have ended or not.
    """
    total = 0.0
    for i in range(node.shape[0]):
        tokens = length[i] / ratio
        b = bin_of(tokens)
        first = first_of(b)
        part = min(1.0, (tokens - first + 1.0) / (first_of(b + 1) - first))
        low = sums[node[i], b - 1] if b > 0 else 0.0
        total += low + part * (sums[node[i], b] - low)
    return total


@entry(dims={"sums": 2})
def length_ratio(
    sums: Float64, node: Int32, length: Float64, ended: float, sigmas: float, most: float
) -> float:
    """Return by what factor these answers are longer than their distributions say, within ``1/most .. most``.

    The factor at which as many should have ended as have; 1 if the difference at 1 is within `sigmas`
    standard deviations.
    """
    expected = expected_ends(sums, node, length, 1.0)
    if abs(expected - ended) <= sigmas * np.sqrt(max(expected, 1.0)):
        return 1.0
    low, high = 1.0 / most, most
    for _ in range(16):
        middle = np.sqrt(low * high)
        if expected_ends(sums, node, length, middle) > ended:
            low = middle
        else:
            high = middle
    return float(np.sqrt(low * high))


@entry(dims={"distribution": 2})
def means(distribution: Float64, node: Int32, above: Int32, limit: Int64, values: Float64) -> Float64:
    """Return E[min(d, limit) | d > above] of each request, float64 [n], tokens.

    Parameters
    ----------
    node
        int32 [n]: the row of `distribution` of each.
    above
        int32 [n], tokens: generated so far.
    """
    out = np.empty(node.shape[0])
    for i in range(node.shape[0]):
        total, mass = 0.0, 0.0
        first = bin_of(float(above[i] + 1)) if above[i] > 0 else 0
        for b in range(first, BINS):
            chance = distribution[node[i], b]
            total += chance * max(values[b], above[i] + 1.0) if values[b] < limit[i] else chance * limit[i]
            mass += chance
        found = total / mass if mass > 1e-9 else 1.25 * above[i] + 1.0
        out[i] = min(max(found, above[i] + 1.0), float(limit[i]))
    return out


@entry(dims={"distribution": 2})
def quantiles(distribution: Float64, node: Int32, q: float, limit: Int64) -> Float64:
    """Return the quantile `q` of min(d, limit) of each request, float64 [n], tokens."""
    rows = np.empty(distribution.shape[0])
    for k in range(distribution.shape[0]):
        total, rows[k] = 0.0, float(LONGEST)
        for b in range(BINS):
            chance = distribution[k, b]
            if total + chance >= q and chance > 0.0:
                width = first_of(b + 1) - first_of(b)
                # Of a bin of one length it is that length.
                rows[k] = first_of(b) + (width - 1) * (q - total) / chance
                break
            total += chance
    out = np.empty(node.shape[0])
    for i in range(node.shape[0]):
        out[i] = min(max(rows[node[i]], 1.0), float(limit[i]))
    return out


@entry(dims={"distribution": 2})
def outlooks(distribution: Float64, values: Float64) -> Float64:
    """Return E[d | d in this bin or above], float64 [nodes, BINS]; 0 where nothing is known."""
    out = np.zeros_like(distribution)
    for node in range(distribution.shape[0]):
        total, mass = 0.0, 0.0
        for b in range(BINS - 1, -1, -1):
            total += distribution[node, b] * values[b]
            mass += distribution[node, b]
            if mass > 1e-9:
                out[node, b] = total / mass
    return out


@entry(dims={"counts": 3})
def log_moments(counts: Float64, values: Float64) -> Float64:
    """Return weight, sum and sum of squares of the logarithms of ended answers, float64 [nodes, 3]."""
    out = np.zeros((counts.shape[0], 3))
    logs = np.empty(BINS)
    for b in range(BINS):
        logs[b] = np.log(max(values[b], 1.0))
    for node in range(counts.shape[0]):
        for b in range(BINS):
            n = counts[node, 0, b]
            out[node, 0] += n
            out[node, 1] += n * logs[b]
            out[node, 2] += n * logs[b] * logs[b]
    return out


@entry(dims={"moments": 2})
def credibility(
    parent: Int32, level: Int32, moments: Float64, levels: int, low: float, high: float
) -> Float64:
    """Return how many answers the prior of a node is worth, by level, float64 [levels].

    Variance within nodes over variance between the nodes of one parent, of the logarithms of lengths
    (Buehlmann's credibility; both unbiased): many where the nodes of a level do not differ, few where they
    differ much. `low` .. `high`; `high` where nothing can be told.
    """
    inside, freedom = np.zeros(levels), np.zeros(levels)
    spread, nodes, parents = np.zeros(levels), np.zeros(levels), np.zeros(levels)
    weight, squares = np.zeros(levels), np.zeros(parent.shape[0])
    known, total = np.zeros(parent.shape[0]), np.zeros(parent.shape[0])
    for k in range(1, parent.shape[0]):
        n = moments[k, 0]
        if n > 0.0:
            known[parent[k]] += n
            total[parent[k]] += moments[k, 1]
            squares[parent[k]] += n * n
    for k in range(1, parent.shape[0]):
        n, at, above = moments[k, 0], level[k], parent[k]
        # Children that have all of their parent's answers tell nothing.
        if n <= 0.0 or known[above] <= n:
            continue
        mean = moments[k, 1] / n
        inside[at] += max(0.0, moments[k, 2] - n * mean * mean)
        freedom[at] += max(0.0, n - 1.0)
        spread[at] += n * (mean - total[above] / known[above]) ** 2
        nodes[at] += 1.0
        weight[at] += n - n * n / known[above]
        parents[at] += n / known[above]
    out = np.full(levels, high)
    for at in range(levels):
        if freedom[at] > 0.0 and weight[at] > 0.0 and nodes[at] > parents[at]:
            within = inside[at] / freedom[at]
            between = (spread[at] - (nodes[at] - parents[at]) * within) / weight[at]
            if between > 0.0:
                out[at] = min(high, max(low, within / between))
    return out


@entry(dims={"counts": 3})
def rescale_nodes(counts: Float64, ratio: Float64, values: Float64) -> Float64:
    """Return counts (float64 [nodes, 2, BINS]) of answers as if they were `ratio` [nodes] times as long."""
    out = np.zeros_like(counts)
    for node in range(counts.shape[0]):
        for b in range(BINS):
            if counts[node, 0, b] + counts[node, 1, b] > 0.0:
                to = bin_of(values[b] * ratio[node] + 0.5)
                out[node, 0, to] += counts[node, 0, b]
                out[node, 1, to] += counts[node, 1, b]
    return out
