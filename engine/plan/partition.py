"""Requests divided among replicas: equal parts of compute and of memory work, subtrees kept together.

The order of falling density is cut into pieces of neighbours, where they share least. Of each R pieces in a
row every one of R replicas gets one, so that all have the same kinds of requests: replicas with equal sums of
different kinds differ by several percent in how well they can be blended. Every cut loses at most one prefix.
The longest answers go first and one by one, to the replica with the fewest tokens of them so far: they decide
when a replica ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.plan.order import blend, by_segment
from engine.plan.tree import distinct_tokens

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.arrays import Float64, Int32, Int64
    from engine.plan.order import CostOf
    from engine.plan.tree import PrefixTree

TOLERANCE: Final = 0.01
"""Largest deviation of a replica's compute or memory work from its part that is aimed at."""
PIECES: Final = (8, 16, 32, 64, 128, 256)
"""Pieces per replica that are tried, most first: replicas that are more alike; fewer: less computed twice."""
MOST_PIECES: Final = 4096
"""Of all replicas together: many replicas need fewer each, and swaps cost the square of their pieces."""
AGAIN: Final = 0.002
"""Part of all distinct tokens that may be computed again for replicas that are more alike."""
SLACK: Final = 0.25
"""A cut may move by this part of a piece to where neighbours share less."""
LONGEST: Final = 16
"""Longest answers per replica that are dealt out one by one."""
LONG: Final = 2.0
"""Only answers longer than this many times the median are dealt out so."""
MOST_SWAPS: Final = 400


@dataclass(frozen=True)
class Partition:
    """Requests of each of R replicas.

    Attributes
    ----------
    requests
        For each replica its request indices, int32, rising.
    compute, memory
        float64 [R]: modelled seconds of each, what it computes twice included.
    recomputed_tokens
        Tokens of prefixes that more than one replica computes: beyond those of the one tree.
    """

    requests: tuple[Int32, ...]
    compute: Float64
    memory: Float64
    recomputed_tokens: int

    @property
    def imbalance(self) -> float:
        """Largest relative deviation of a replica's compute or memory work from the mean."""
        works = [work for work in (self.compute, self.memory) if work.sum() > 0]
        return float(max((np.abs(work / work.mean() - 1).max() for work in works), default=0.0))


def partition(tree: PrefixTree, output: Float64, cost_of: CostOf, replicas: int) -> Partition:
    """Divide the requests of a tree.

    Parameters
    ----------
    tree
        Of requests 0 .. N - 1.
    output
        float64 [N]: expected output tokens.
    cost_of
        Sums per node, and seconds per request, of a tree (`engine.plan.tree.node_costs`).
    replicas
        R, at least 1.

    Returns
    -------
    Partition
        Of those within `TOLERANCE` the one of most pieces that computes at most `AGAIN` twice, or else the
        one that computes the fewest tokens twice; if none is, the most even one.

    Raises
    ------
    ValueError
        If `replicas` is below 1.
    """
    if replicas < 1:
        raise ValueError(f"replicas must be at least 1, not {replicas}")
    n = tree.sorted.shape[0]
    if replicas == 1 or n == 0:
        return _evaluate(tree, np.zeros(n, np.int64), cost_of, replicas)
    ordered = blend(tree, cost_of)
    _, compute, memory = cost_of(ordered)
    # A work of nothing is even in any case.
    work = np.stack([compute / max(compute.sum(), 1e-300), memory / max(memory.sum(), 1e-300)], axis=1)
    of_request = _deal(output, replicas)
    limit = AGAIN * distinct_tokens(tree)
    tried: list[Partition] = []
    # No more than one try has as many pieces as there are requests.
    counts = PIECES[: 1 + sum(pieces * replicas < min(n, MOST_PIECES) for pieces in PIECES)]
    for pieces in reversed(counts):
        found = _evaluate(tree, _pack(ordered, work, of_request, replicas, pieces), cost_of, replicas)
        if found.imbalance <= TOLERANCE and found.recomputed_tokens <= limit:
            return found
        tried.insert(0, found)
    even = [found for found in tried if found.imbalance <= TOLERANCE]
    if even:
        return min(even, key=lambda found: found.recomputed_tokens)
    return min(tried, key=lambda found: found.imbalance)


def _evaluate(tree: PrefixTree, replica: Int64, cost_of: CostOf, replicas: int) -> Partition:
    compute, memory, distinct = np.zeros(replicas), np.zeros(replicas), 0
    used = np.unique(replica)
    if used.shape[0]:
        for k, part in zip(used, by_segment(tree, np.searchsorted(used, replica)), strict=True):
            costs, _, _ = cost_of(part)
            compute[k], memory[k] = costs.compute[-1], costs.memory[-1]
            distinct += distinct_tokens(part)
    requests = tuple(np.flatnonzero(replica == k).astype(np.int32) for k in range(replicas))
    again = distinct - distinct_tokens(tree) if used.shape[0] else 0
    return Partition(requests, compute, memory, again)


def _deal(output: Float64, replicas: int) -> Int64:
    """Return the replica of each of the longest answers, -1 for the others, int64 [N]."""
    of_request = np.full(output.shape[0], -1, np.int64)
    count = min(LONGEST * replicas, output.shape[0] // 8)
    longest = np.argsort(-output, kind="stable")[:count]
    longest = longest[output[longest] > LONG * np.median(output)]
    tokens = np.zeros(replicas)
    for request in longest:
        replica = int(tokens.argmin())
        of_request[request] = replica
        tokens[replica] += output[request]
    return of_request


def _pack(
    ordered: PrefixTree, work: Float64, of_request: Int64, replicas: int, pieces: int
) -> npt.NDArray[np.int64]:
    """Return the replica of each request, int64 [N]."""
    of_request = of_request.copy()
    load = np.zeros((replicas, 2))
    dealt = of_request >= 0
    np.add.at(load, of_request[dealt], work[dealt])
    free = np.flatnonzero(~dealt[ordered.sorted])
    requests = ordered.sorted[free]
    bounds = _cuts(ordered.common[free], work[requests].sum(axis=1), pieces * replicas)
    sizes = np.add.reduceat(work[requests], bounds[:-1], axis=0) if requests.shape[0] else np.zeros((0, 2))
    of_piece = _assign(sizes, load, replicas)
    of_request[requests] = np.repeat(of_piece, np.diff(bounds))
    return of_request


def _cuts(common: Int32, work: Float64, count: int) -> Int64:
    """Return the bounds of at most `count` pieces of about equal work, each where least is shared nearby."""
    n = work.shape[0]
    reached = np.concatenate(([0.0], np.cumsum(work)))
    step = reached[-1] / count
    cuts = [0]
    for k in range(1, count):
        near = (k - SLACK) * step, k * step, (k + SLACK) * step
        low, middle, high = (int(x) for x in np.searchsorted(reached, near))
        low, high = max(low, cuts[-1] + 1), min(high, n - 1)
        if low > high:
            continue
        shared = common[low : high + 1]
        best = np.flatnonzero(shared == shared.min())
        cuts.append(low + int(best[np.abs(best + low - middle).argmin()]))
    return np.array([*cuts, n] if n else [0], np.int64)


def _assign(sizes: Float64, load: Float64, replicas: int) -> Int64:
    """Return the replica of each piece: of each R in a row one to each, then swaps while they help.

    Parameters
    ----------
    sizes
        float64 [pieces, 2]: parts of all compute and memory work, in the order of density.
    load
        float64 [R, 2]: what the replicas have already; it is added to.
    """
    of_piece = np.zeros(sizes.shape[0], np.int64)
    for first in range(0, sizes.shape[0], replicas):
        row = sizes[first : first + replicas]
        taken = np.zeros(replicas, bool)
        for place in np.argsort(-row.max(axis=1), kind="stable"):
            # The least growth of the sum of squares.
            replica = int(np.where(taken, np.inf, load @ row[place]).argmin())
            taken[replica] = True
            of_piece[first + place] = replica
            load[replica] += row[place]
    for _ in range(MOST_SWAPS):
        if not _improve(sizes, load, of_piece, replicas):
            break
    return of_piece


def _improve(sizes: Float64, load: Float64, of_piece: Int64, replicas: int) -> bool:
    """Move or swap pieces between the most uneven replica and another one; False if nothing helps."""
    off = load - load.mean(axis=0)
    worst = int((off**2).sum(axis=1).argmax())
    mine = np.flatnonzero(of_piece == worst)
    best = (-1e-15, -1, -1, -1)
    give = np.concatenate((sizes[mine], np.zeros((1, 2))))
    for other in range(replicas):
        if other == worst:
            continue
        theirs = np.flatnonzero(of_piece == other)
        take = np.concatenate((sizes[theirs], np.zeros((1, 2))))
        moved = give[:, None, :] - take[None, :, :]
        change = 2 * (moved * (moved + off[other] - off[worst])).sum(axis=2)
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] < best[0]:
            best = (
                float(change[i, j]),
                other,
                int(mine[i]) if i < len(mine) else -1,
                int(theirs[j]) if j < len(theirs) else -1,
            )
    _, other, out, back = best
    if other < 0:
        return False
    for piece, source, target in ((out, worst, other), (back, other, worst)):
        if piece >= 0:
            of_piece[piece] = target
            load[source] -= sizes[piece]
            load[target] += sizes[piece]
    return True
