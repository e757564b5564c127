"""Preemption: a running request goes back to the scan, to relieve memory or to keep a side to its share.

What it has generated is kept; its KV is computed again when it is admitted the next time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.cost.step import StepCost, decode_seconds, step_compute_seconds
from engine.jit import entry, njit_in_place
from engine.plan.scan import LEFT, NOBODY, RETRY, RIGHT, SIDES_MOVED, Scan, give_back, propose, wake
from engine.runtime.kv.pages import CACHED, NONE, PagePool, available, release, take_page
from engine.runtime.schedule.forecast import known_tokens, leave, remaining_output, side_top
from engine.runtime.schedule.pacing import survey
from engine.runtime.schedule.side_balance import right_limit
from engine.runtime.state import PREEMPTIONS, RUNNING, Requests, Slots

if TYPE_CHECKING:
    from engine.arrays import Int32


@entry(in_place=True, dims={"preempted": 2})
def relieve(
    pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost, preempted: Int32
) -> int:
    """Make sure that every running sequence has a page for its next token; preempt requests if need be.

    The one that loses the fewest computed tokens goes back to the scan. If estimates have changed, the right
    side is brought back to its share first (`_balance`). Called before `admit`.

    Parameters
    ----------
    preempted
        int32 [S, 2]: receives (request, slot) of each preempted one, whose answer so far is still in
        ``slots.output[slot]``.

    Returns
    -------
    int
        The number preempted.
    """
    size = pool.tokens.shape[1]
    count = 0
    if scan.cursor[SIDES_MOVED]:
        scan.cursor[SIDES_MOVED] = 0
        count = _balance(pool, requests, slots, scan, cost, preempted)
    while True:
        needed = 0
        for i in range(slots.counts[RUNNING]):
            slot = slots.running[i]
            if known_tokens(requests, slots.request[slot]) > slots.n_pages[slot] * size:
                needed += 1
        if needed <= available(pool):
            break
        victim, least = 0, 1 << 62
        for i in range(slots.counts[RUNNING]):
            slot = slots.running[i]
            loss = slots.computed[slot] - slots.shared[slot] * size
            if loss <= least:
                victim, least = i, loss
        slot = slots.running[victim]
        preempted[count, 0] = slots.request[slot]
        preempted[count, 1] = slot
        count += 1
        preempt(pool, requests, slots, scan, cost, victim)
    if needed > 0:
        for i in range(slots.counts[RUNNING]):
            slot = slots.running[i]
            if known_tokens(requests, slots.request[slot]) > slots.n_pages[slot] * size:
                take_next_page(pool, slots, slot)
    return count


@njit_in_place
def _balance(
    pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost, preempted: Int32
) -> int:
    """Preempt memory-heavy requests until their side keeps to its share; return how many.

    Answers that turn out longer than they seemed take room that compute-heavy requests were to have, for as
    long as they run: thousands of steps in which only the memory is busy. What they have generated is kept;
    computing its KV again later is compute work, and little of it. Nobody is preempted unless somebody of the
    left side waits, and the last one of the right side never is.
    """
    count = 0
    if propose(scan, LEFT, 0) == NOBODY and propose(scan, RETRY, 0) == NOBODY:
        return count
    size = pool.tokens.shape[1]
    limit = right_limit(pool, scan, survey(pool, requests, slots, scan, cost))
    while True:
        most, due = side_top(pool, slots, RIGHT)
        if most <= limit:
            return count
        victim, least, alone = NONE, 1 << 62, True
        for i in range(slots.counts[RUNNING]):
            slot = slots.running[i]
            if slots.side[slot] != RIGHT or slots.due[slot] < due:
                continue
            alone = victim == NONE
            loss = slots.computed[slot] - slots.shared[slot] * size
            if loss <= least:
                victim, least = i, loss
        if alone:
            return count
        slot = slots.running[victim]
        preempted[count, 0] = slots.request[slot]
        preempted[count, 1] = slot
        count += 1
        preempt(pool, requests, slots, scan, cost, victim)


@njit_in_place
def preempt(pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost, place: int) -> None:
    """Send the sequence at ``slots.running[place]`` back to the scan; what it generated is kept."""
    slot = slots.running[place]
    request = slots.request[slot]
    requests.stored[request] = max(requests.stored[request], slots.computed[slot])
    free_slot(pool, slots, place)
    slots.counts[PREEMPTIONS] += 1
    known, remaining = known_tokens(requests, request), remaining_output(requests, request)
    compute = step_compute_seconds(cost, known + remaining, remaining, 0.0)
    give_back(scan, request, remaining, compute, decode_seconds(cost, float(known), remaining))
    wake(scan)


@njit_in_place
def free_slot(pool: PagePool, slots: Slots, place: int) -> None:
    """Release all that the sequence at ``slots.running[place]`` holds, keeping the order of the rest."""
    slot = slots.running[place]
    leave(slots, slot)
    if slots.source[slot] != NONE:
        release(pool, slots.source[slot], slot)
        slots.source[slot] = NONE
    for i in range(slots.n_pages[slot] - 1, -1, -1):
        page = slots.pages[slot, i]
        if pool.state[page] == CACHED and pool.owner[page] == slot:
            pool.owner[page] = NONE
        release(pool, page, slot)
    running = slots.counts[RUNNING]
    for i in range(place, running - 1):
        slots.running[i] = slots.running[i + 1]
    slots.counts[RUNNING] = running - 1
    slots.vacant[slots.running.shape[0] - running] = slot


@njit_in_place
def take_next_page(pool: PagePool, slots: Slots, slot: int) -> None:
    """Give the sequence in `slot` a page for the tokens that it generates; one must be available."""
    slots.pages[slot, slots.n_pages[slot]] = take_page(pool, slot)
    slots.n_pages[slot] += 1
