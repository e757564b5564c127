"""The ledger of side balance: how much memory the memory-heavy side may fill.

Memory-heavy requests, small while they begin and large when they end, get no more than their share of the
memory even at their common peak. Without it they fill the memory as they grow, and the compute-heavy requests
that should run beside them wait for thousands of steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.jit import njit_in_place
from engine.plan.scan import (
    BALANCED,
    HEAVY_RETRY,
    MEMORY_BOUND,
    N_RIGHT,
    NOBODY,
    RIGHT,
    Scan,
    propose,
    right_share,
)
from engine.runtime.kv.pages import NONE, PagePool
from engine.runtime.schedule.forecast import draw, side_peak
from engine.runtime.state import RUNNING, STEP, Requests, Slots

if TYPE_CHECKING:
    from engine.runtime.schedule.pacing import Outlook

MEMORY_LIMITS = 0.88
"""Memory work limits the run if compute work takes less than this part of its time. Nearer to balance it is
now the one and now the other that limits, and the compute-heavy side needs its room."""


@njit_in_place
def right_limit(pool: PagePool, scan: Scan, outlook: Outlook) -> float:
    """Return the pages that the right side may hold at its peak."""
    share = right_share(outlook.left_memory, outlook.right_memory)
    reserve = scan.reserve[MEMORY_BOUND if outlook.rho < MEMORY_LIMITS else BALANCED]
    return float((1.0 - reserve * (1.0 - share)) * pool.free.shape[0])


@njit_in_place
def longest_that_fits(
    pool: PagePool, requests: Requests, slots: Slots, scan: Scan, outlook: Outlook, delay: float
) -> tuple[int, int]:
    """Return side and place of the memory-heavy request to admit next within the side's share, or NONE.

    It is the one preempted last, if there is any; else the longest that fits. The longer an answer, the
    higher the peak, so a binary search finds it (prompts of different lengths make that approximate, which
    costs a little room, never the limit).
    """
    size, step = pool.tokens.shape[1], slots.counts[STEP] + 1
    limit = right_limit(pool, scan, outlook)
    again = propose(scan, HEAVY_RETRY, 0)
    if again != NOBODY:
        due, base = draw(requests, again, step, delay, size)
        fits = side_peak(pool, slots, RIGHT, due, base) <= limit or _right_is_empty(slots)
        return HEAVY_RETRY, 0 if fits else NONE
    low, high = 0, scan.cursor[N_RIGHT]
    while low < high:
        middle = (low + high) // 2
        due, base = draw(requests, propose(scan, RIGHT, middle), step, delay, size)
        if side_peak(pool, slots, RIGHT, due, base) <= limit:
            high = middle
        else:
            low = middle + 1
    if low < scan.cursor[N_RIGHT]:
        return RIGHT, low
    # A share too small for any of them must not keep the side waiting to the end.
    return RIGHT, scan.cursor[N_RIGHT] - 1 if _right_is_empty(slots) else NONE


@njit_in_place
def _right_is_empty(slots: Slots) -> bool:
    heavy = 0
    for i in range(slots.counts[RUNNING]):
        heavy += slots.side[slots.running[i]] == RIGHT
    return heavy == 0
