"""The dual scan: which waiting request is admitted next, decided while the engine runs.

Every policy stands behind the same calls, `propose` and `accept`. A one-sided policy (fcfs, random, dfs)
walks its order from the left. `blend` has two sides: compute-heavy requests at the left, in the order of the
plan, and memory-heavy ones (density below that of all requests together) at the right, longest answer first.

After Zhao et al., BlendServe, ASPLOS 2026, with two departures. The share of memory of the right side is not
taken from the densities under the two scanners but from those of all that remains on either side
(`right_share`), so that one extreme request at an end does not swing it. And the right side takes the longest
answer *that fits its share* instead of only the next one (backfilling): long answers that start one behind
the other also end together, in waves that leave the memory half empty.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engine.jit import entry, njit_in_place
from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Bool, Float64, Int8, Int32, Int64

LEFT, RIGHT, RETRY, HEAVY_RETRY = 0, 1, 2, 3
NOBODY = -1
# Indices into `Scan.cursor`.
(
    AT_LEFT,
    LEFT_END,
    AT_RIGHT,
    N_RIGHT,
    N_RETRY,
    SEGMENT,
    LEFT_RESTS,
    RIGHT_RESTS,
    N_HEAVY_RETRY,
    SIDES_MOVED,
) = range(10)
# Indices into `Scan.waiting`.
COMPUTE, LEFT_MEMORY, RIGHT_MEMORY = 0, 1, 2
# Indices into `Scan.reserve`.
BALANCED, MEMORY_BOUND = 0, 1
HALF_RESERVE: Final = (0.5, 0.35)
"""Part of the left side's share of the memory that the right side leaves free even at its peak; the second
where memory work limits the run (`engine.runtime.schedule.side_balance`), since the weights are read in fewer
steps if the memory is fuller."""
WHOLE_RESERVE: Final = (1.0, 1.0)
"""The right side leaves the whole of it free."""
RESERVE: Final = HALF_RESERVE
"""Where a plan says nothing of it."""


@struct(dims={"segments": 2})
class Scan(NamedTuple):
    """State of the scan over N requests.

    Attributes
    ----------
    left
        int32 [L]: requests of the left side (all of them for a one-sided policy), in order.
    right
        int32 [R]: waiting requests of the right side, longest expected answer first.
    segments
        int64 [k, 4]: the parts of `left` (begin, end) and of `right` (begin, end) that are blended with each
        other; all of one segment are admitted before any of the next.
    length
        float64 [N]: expected output tokens by which `right` is sorted.
    heavy
        int8 [N]: 1 for requests of the right side.
    compute, memory
        float64 [N]: modelled seconds of what each request still has to do, after prefix sharing.
    cursor
        int64 [10]: of the segment in hand, the next position at the left and the end of it, the first
        position at the right and how many wait there; retries waiting; the segment; the steps
        before which the two sides are not asked again, because nobody fitted (`rest`, `wake`); memory-heavy
        retries waiting; and whether estimates have changed since the sides were balanced
        (`engine.runtime.schedule.preemption.relieve`).
    retry
        int32 [N]: preempted requests, which go before any new one of their side: the memory-heavy ones from
        the end on, the others from the beginning.
    waiting
        float64 [3]: seconds of all requests that are not admitted: compute, memory left, memory right.
    reserve
        float64 [2]: `HALF_RESERVE` or other parts like these.
    """

    left: Int32
    right: Int32
    segments: Int64
    length: Float64
    heavy: Int8
    compute: Float64
    memory: Float64
    cursor: Int64
    retry: Int32
    waiting: Float64
    reserve: Float64


def make_scan(
    order: Int32,
    compute: Float64,
    memory: Float64,
    length: Float64,
    *,
    two_sided: bool,
    segments: Int64 | None = None,
    linked: Bool | None = None,
    reserve: tuple[float, float] = RESERVE,
) -> Scan:
    """Return a scan at its start.

    Parameters
    ----------
    order
        int32 [n]: indices of the requests that wait, the compute-heavy first for a two-sided scan.
    compute, memory, length
        float64 [N]: modelled seconds, and expected output tokens, by request index.
    segments
        int64 [k + 1]: positions in `order` at which a segment begins, and n. None or empty: one segment.
    linked
        bool [n]: whether the request at a position of `order` has to stay with the one before it, for the
        sake of a prefix. Requests that stay together go to one side, by their density together, and count
        with their mean length there. None: nobody has to.
    reserve
        See `Scan`.
    """
    n = order.shape[0]
    order = np.ascontiguousarray(order, np.int32)
    compute, memory = np.array(compute, np.float64), np.array(memory, np.float64)
    heavy = np.zeros(compute.shape[0], np.int8)
    bounds = np.array([0, n]) if segments is None or len(segments) < 2 else segments
    alone = np.ones(n, bool) if linked is None or len(linked) < n else ~linked
    key = np.array(length, np.float64)
    lefts, rights, table, at = [], [], [], np.zeros(2, np.int64)
    for begin, end in itertools.pairwise(bounds.tolist()):
        part = order[begin:end]
        if two_sided:
            unit = np.cumsum(alone[begin:end]) - alone[begin:end][:1].sum()
            c, m = np.bincount(unit, compute[part]), np.bincount(unit, memory[part])
            # Relative margin: requests that are all alike must not fall to both sides by rounding.
            heavy[part] = (c * m.sum() < (1.0 - 1e-9) * m * c.sum())[unit]
            key[part] = (np.bincount(unit, length[part]) / np.bincount(unit))[unit]
        left, right = part[heavy[part] == 0], part[heavy[part] == 1]
        # Stable: requests of equal length keep the order of the plan, in which prefixes are together.
        lefts.append(left)
        rights.append(right[np.argsort(-key[right], kind="stable")])
        sizes = np.array([left.shape[0], right.shape[0]])
        table.append([at[0], at[0] + sizes[0], at[1], at[1] + sizes[1]])
        at += sizes
    scan = Scan(
        left=np.ascontiguousarray(np.concatenate(lefts)),
        right=np.ascontiguousarray(np.concatenate(rights)),
        segments=np.array(table, np.int64),
        length=np.array(length, np.float64),
        heavy=heavy,
        compute=compute,
        memory=memory,
        cursor=np.zeros(10, np.int64),
        retry=np.zeros(max(compute.shape[0], 1), np.int32),
        waiting=np.array(
            [compute[order].sum(), memory[order][heavy[order] == 0].sum(), memory[heavy == 1].sum()],
            np.float64,
        ),
        reserve=np.array(reserve, np.float64),
    )
    _open_segment(scan, 0)
    return scan


@entry(in_place=True)
def _open_segment(scan: Scan, segment: int) -> None:
    """Go to the first segment from `segment` on in which anybody waits, if there is one."""
    for i in range(segment, scan.segments.shape[0]):
        scan.cursor[SEGMENT] = i
        scan.cursor[AT_LEFT], scan.cursor[LEFT_END] = scan.segments[i, 0], scan.segments[i, 1]
        scan.cursor[AT_RIGHT] = scan.segments[i, 2]
        scan.cursor[N_RIGHT] = scan.segments[i, 3] - scan.segments[i, 2]
        if scan.cursor[AT_LEFT] < scan.cursor[LEFT_END] or scan.cursor[N_RIGHT] > 0:
            break


@entry(in_place=True)
def right_share(left_memory: float, right_memory: float) -> float:
    """Return the share of KV memory that the right side should hold.

    With densities l and r of the sides and t of both together, ``M_l + M_r = M`` and ``l M_l + r M_r = t M``
    say how the memory M is to be parted (BlendServe). Where l, r and t are those of all that remains, each is
    a mean weighted by memory time, so the solution is to part M in proportion to the memory times.

    Parameters
    ----------
    left_memory, right_memory
        Memory seconds of all that remains on either side.
    """
    total = left_memory + right_memory
    return right_memory / total if total > 0.0 else 0.5


def retried_requests(scan: Scan) -> Int32:
    """Return the preempted requests that wait to go on, int32 [n]."""
    light, heavy = scan.cursor[N_RETRY], scan.cursor[N_HEAVY_RETRY]
    return np.concatenate((scan.retry[:light], scan.retry[scan.retry.shape[0] - heavy :]))


def waiting_requests(scan: Scan) -> Int32:
    """Return the requests that have not been admitted yet, int32 [n]; preempted ones are not among them."""
    cursor = scan.cursor
    parts = [
        scan.left[cursor[AT_LEFT] : cursor[LEFT_END]],
        scan.right[cursor[AT_RIGHT] : cursor[AT_RIGHT] + cursor[N_RIGHT]],
    ]
    for begin, end, first, last in scan.segments[cursor[SEGMENT] + 1 :].tolist():
        parts += [scan.left[begin:end], scan.right[first:last]]
    return np.concatenate(parts)


def without(scan: Scan, requests: Int32) -> Scan:
    """Return a scan in which `requests` (int32, of those that wait) are not, and the others as they were."""
    cursor, gone = scan.cursor, np.zeros(scan.heavy.shape[0], np.bool_)
    gone[requests] = True
    table = scan.segments[cursor[SEGMENT] :].copy()
    table[0] = (*cursor[[AT_LEFT, LEFT_END]], cursor[AT_RIGHT], cursor[AT_RIGHT] + cursor[N_RIGHT])
    lefts = [scan.left[begin:end] for begin, end in table[:, :2].tolist()]
    rights = [scan.right[begin:end] for begin, end in table[:, 2:].tolist()]
    lefts, rights = [part[~gone[part]] for part in lefts], [part[~gone[part]] for part in rights]
    for column, parts in ((0, lefts), (2, rights)):
        ends = np.cumsum([part.shape[0] for part in parts])
        table[:, column + 1], table[1:, column], table[0, column] = ends, ends[:-1], 0
    found = scan._replace(
        left=np.concatenate(lefts),
        right=np.concatenate(rights),
        segments=table,
        cursor=cursor.copy(),
        waiting=np.zeros(3),
    )
    _open_segment(found, 0)
    left = np.concatenate((waiting_requests(found), retried_requests(found)))
    heavy = scan.heavy[left] == 1
    memory = scan.memory[left]
    found.waiting[:] = scan.compute[left].sum(), memory[~heavy].sum(), memory[heavy].sum()
    wake(found)
    return found


def take_over(scan: Scan, old: Scan) -> None:
    """Let `scan`, a new order of what waits in `old`, go on with what `old` knows of the other requests."""
    others = np.ones(old.heavy.shape[0], np.bool_)
    others[waiting_requests(scan)] = False
    for name in ("heavy", "compute", "memory", "length"):
        getattr(scan, name)[others] = getattr(old, name)[others]
    scan.retry[:] = old.retry
    scan.cursor[[N_RETRY, N_HEAVY_RETRY]] = old.cursor[[N_RETRY, N_HEAVY_RETRY]]
    for request in retried_requests(old).tolist():
        _count(scan, request, 1)


@njit_in_place
def propose(scan: Scan, side: int, place: int) -> int:
    """Return the request that `side` (LEFT, RIGHT, RETRY or HEAVY_RETRY) would admit next, or NOBODY.

    `place` is a position among the waiting requests of the right side; the other sides ignore it.
    """
    if side == RETRY:
        return int(scan.retry[scan.cursor[N_RETRY] - 1]) if scan.cursor[N_RETRY] > 0 else NOBODY
    if side == HEAVY_RETRY:
        heavy = scan.cursor[N_HEAVY_RETRY]
        return int(scan.retry[scan.retry.shape[0] - heavy]) if heavy > 0 else NOBODY
    if side == RIGHT:
        return int(scan.right[scan.cursor[AT_RIGHT] + place]) if place < scan.cursor[N_RIGHT] else NOBODY
    return int(scan.left[scan.cursor[AT_LEFT]]) if scan.cursor[AT_LEFT] < scan.cursor[LEFT_END] else NOBODY


@njit_in_place
def accept(scan: Scan, side: int, place: int) -> None:
    """Take the request that `propose` returned for `side` and `place`."""
    request = propose(scan, side, place)
    if side == RETRY:
        scan.cursor[N_RETRY] -= 1
    elif side == HEAVY_RETRY:
        scan.cursor[N_HEAVY_RETRY] -= 1
    elif side == LEFT:
        scan.cursor[AT_LEFT] += 1
    else:
        first = scan.cursor[AT_RIGHT]
        for i in range(first + place, first + scan.cursor[N_RIGHT] - 1):
            scan.right[i] = scan.right[i + 1]
        scan.cursor[N_RIGHT] -= 1
    _count(scan, request, -1)
    if side in (LEFT, RIGHT) and scan.cursor[AT_LEFT] == scan.cursor[LEFT_END] and scan.cursor[N_RIGHT] == 0:
        _open_segment(scan, scan.cursor[SEGMENT] + 1)
        wake(scan)


@entry(in_place=True)
def take_next(scan: Scan, side: int) -> int:
    """Take the request that is next at `side` and return it, or NOBODY."""
    request = propose(scan, side, 0)
    if request != NOBODY:
        accept(scan, side, 0)
    return request


@entry(in_place=True)
def give_back(scan: Scan, request: int, remaining: float, compute: float, memory: float) -> None:
    """Queue a preempted request, to be retried before any new one of its side, the longest first.

    Parameters
    ----------
    remaining
        Tokens that it still has to generate.
    compute, memory
        Seconds of work that it still has to do, its lost tokens included.
    """
    scan.length[request] = remaining
    scan.compute[request], scan.memory[request] = compute, memory
    _count(scan, request, 1)
    # Two stacks in one array, the longest on top of each.
    heavy = scan.heavy[request] == 1
    count, end = (N_HEAVY_RETRY, scan.retry.shape[0] - 1) if heavy else (N_RETRY, 0)
    sign = -1 if heavy else 1
    place = scan.cursor[count]
    while place > 0 and scan.length[scan.retry[end + sign * (place - 1)]] > remaining:
        scan.retry[end + sign * place] = scan.retry[end + sign * (place - 1)]
        place -= 1
    scan.retry[end + sign * place] = request
    scan.cursor[count] += 1


def move_retries(scan: Scan, heavy: Int8) -> None:
    """Queue the preempted requests on the sides that `heavy` (int8 [N]) now says.

    One that has turned out memory-heavy would else stand in the way of the compute-heavy ones until it fits.
    """
    retries = retried_requests(scan)
    for request in retries.tolist():
        _count(scan, request, -1)
    scan.cursor[[N_RETRY, N_HEAVY_RETRY]] = 0
    scan.heavy[retries] = heavy[retries]
    for request in retries.tolist():
        give_back(scan, request, scan.length[request], scan.compute[request], scan.memory[request])


@njit_in_place
def rest(scan: Scan, side: int, step: int) -> None:
    """Do not ask `side` (LEFT stands for retries as well) again before `step`, unless it is woken."""
    scan.cursor[RIGHT_RESTS if side == RIGHT else LEFT_RESTS] = step


@njit_in_place
def rests(scan: Scan, side: int, step: int) -> bool:
    """Return whether `side` need not be asked in `step`."""
    return bool(step < scan.cursor[RIGHT_RESTS if side == RIGHT else LEFT_RESTS])


@njit_in_place
def cut_off(scan: Scan) -> bool:
    """Return whether the left side has run out and preempted requests go before all that wait at the right.

    Their answers are the longest there are. Until they fit again, the shortest ones of the right side take
    the place of the left side: there is compute work in them.
    """
    exhausted = scan.cursor[AT_LEFT] == scan.cursor[LEFT_END]
    return bool(exhausted and scan.cursor[N_HEAVY_RETRY] > 0 and scan.cursor[N_RIGHT] > 0)


@njit_in_place
def quiet_until(scan: Scan) -> int:
    """Return the step before which nobody is admitted unless the scan is woken; far off if nobody waits."""
    retrying = scan.cursor[N_RETRY] > 0
    until = 1 << 62
    if retrying or propose(scan, LEFT, 0) != NOBODY or cut_off(scan):
        until = scan.cursor[LEFT_RESTS]
    # Retried requests go before those of the right side.
    if not retrying and scan.cursor[N_RIGHT] + scan.cursor[N_HEAVY_RETRY] > 0:
        until = min(until, scan.cursor[RIGHT_RESTS])
    return int(until)


@entry(in_place=True)
def wake(scan: Scan) -> None:
    """Ask both sides again: memory has been freed."""
    scan.cursor[LEFT_RESTS] = scan.cursor[RIGHT_RESTS] = 0


@entry(in_place=True)
def _count(scan: Scan, request: int, sign: int) -> None:
    side = RIGHT_MEMORY if scan.heavy[request] else LEFT_MEMORY
    scan.waiting[COMPUTE] = max(0.0, scan.waiting[COMPUTE] + sign * scan.compute[request])
    scan.waiting[side] = max(0.0, scan.waiting[side] + sign * scan.memory[request])
