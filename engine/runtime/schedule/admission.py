"""Admission: which waiting requests join the running ones.

Two ledgers, which must not be confused. *Capacity* decides whether a request fits: the largest number of
distinct pages that will ever be held from now on (`engine.runtime.schedule.forecast`). *Side balance* keeps
room for compute-heavy requests (`engine.runtime.schedule.side_balance`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.jit import entry, njit_in_place
from engine.plan.scan import (
    LEFT,
    N_HEAVY_RETRY,
    N_RETRY,
    N_RIGHT,
    NOBODY,
    RETRY,
    RIGHT,
    Scan,
    accept,
    cut_off,
    propose,
    rest,
    rests,
)
from engine.runtime.kv.pages import NONE, PagePool, available, hold, insert, match, take_page
from engine.runtime.schedule.forecast import PEAK, draw, enter, known_tokens, peak, reserved
from engine.runtime.schedule.side_balance import longest_that_fits
from engine.runtime.state import HIT_TOKENS, PEAK_RUNNING, RECOMPUTED_TOKENS, RUNNING, STEP, Requests, Slots

if TYPE_CHECKING:
    from engine.arrays import Int32
    from engine.runtime.schedule.pacing import Outlook

REST = 32
"""Steps for which a side is not asked again after nobody fitted, unless a request ends before: the forecast
does not change by time alone, but the share of the right side does, slowly."""


@entry(in_place=True)
def admit(
    pool: PagePool,
    requests: Requests,
    slots: Slots,
    scan: Scan,
    outlook: Outlook,
    step_tokens: int,
    rule: int,
) -> int:
    """Admit requests until the step's tokens, the slots, or the memory are used up.

    Preempted requests go first; then the memory-heavy side up to its share, since long answers must start
    early and take few tokens of the step; then the compute-heavy side.

    Parameters
    ----------
    outlook
        From `pacing.survey`, before this call.
    step_tokens
        Tokens that the next step computes.
    rule
        What has to fit: of `forecast.RULES`.

    Returns
    -------
    int
        The number admitted; they are the last entries of ``slots.running``.
    """
    step = int(slots.counts[STEP] + 1)
    wanted = outlook.decoding + outlook.missing
    admitted = 0
    while wanted < step_tokens and slots.counts[RUNNING] < slots.running.shape[0]:
        delay = wanted // step_tokens
        retrying = scan.cursor[N_RETRY] > 0
        slot = NONE
        heavy = scan.cursor[N_RIGHT] + scan.cursor[N_HEAVY_RETRY]
        if not retrying and heavy > 0 and not rests(scan, RIGHT, step):
            side, place = longest_that_fits(pool, requests, slots, scan, outlook, delay)
            if place != NONE:
                slot = _try(pool, requests, slots, scan, side, place, delay, rule)
            if slot == NONE:
                rest(scan, RIGHT, step + REST)
        if slot == NONE and not rests(scan, LEFT, step):
            side, place = (RETRY, 0) if retrying else (LEFT, 0)
            if not retrying and cut_off(scan):
                side, place = RIGHT, scan.cursor[N_RIGHT] - 1
            slot = _try(pool, requests, slots, scan, side, place, delay, rule)
            if slot == NONE:
                rest(scan, LEFT, step + REST)
        if slot == NONE:
            break
        admitted += 1
        found = slots.shared[slot] * pool.tokens.shape[1] + slots.source_tokens[slot]
        wanted += known_tokens(requests, slots.request[slot]) - found
    slots.counts[PEAK_RUNNING] = max(slots.counts[PEAK_RUNNING], slots.counts[RUNNING])
    return admitted


@njit_in_place
def _try(
    pool: PagePool,
    requests: Requests,
    slots: Slots,
    scan: Scan,
    side: int,
    place: int,
    delay: float,
    rule: int,
) -> int:
    """Admit the request that `side` proposes if it fits; return its slot, or NONE."""
    request = propose(scan, side, place)
    if request == NOBODY:
        return NONE
    slot = _place(pool, requests, slots, request, delay, rule)
    if slot != NONE:
        accept(scan, side, place)
        slots.side[slot] = RIGHT if scan.heavy[request] else LEFT
    return slot


@njit_in_place
def _find_reuse(pool: PagePool, requests: Requests, request: int, path: Int32) -> tuple[int, int, int, bool]:
    """Look up what the cache holds of a request's prompt.

    Returns
    -------
    (full, source, common, duplicate)
        Whole pages found (written to `path`); the page to copy a partial hit from, or NONE, and how many
        tokens of it; whether some node already stands for the very end of the prompt.
    """
    size = pool.tokens.shape[1]
    prompt = requests.tokens[requests.start[request] : requests.start[request + 1]]
    known = known_tokens(requests, request)
    full, source, common = match(pool, prompt, path)
    duplicate = full * size + common == prompt.shape[0]
    # At least the last known token is computed: its logits give the next one.
    if full * size >= known:
        full -= 1
        source, common = path[full], size - 1
    elif full * size + common >= known:
        common = known - 1 - full * size
    if common == 0:
        source = NONE
    return full, int(source), common, duplicate


@njit_in_place
def _place(pool: PagePool, requests: Requests, slots: Slots, request: int, delay: float, rule: int) -> int:
    """Give `request` a slot and its pages if it fits, and return the slot; else change nothing: NONE."""
    size = pool.tokens.shape[1]
    path = slots.path
    full, source, common, duplicate = _find_reuse(pool, requests, request, path)
    new_pages = (known_tokens(requests, request) + size - 1) // size - full
    # Pages that would be held from now on can no longer be evicted.
    room, shared = available(pool), 0
    if source != NONE and pool.ref[source] == 0:
        room -= 1
    for i in range(full):
        if pool.ref[path[i]] == 0:
            room -= 1
        elif pool.ref[path[i]] > 1:
            shared += 1
    if new_pages > room:
        return NONE
    due, base = draw(requests, request, slots.counts[STEP] + 1, delay, size)
    if rule == PEAK:
        most = peak(pool, slots, due, base, shared)
    else:
        most = reserved(pool, requests, slots, request, full, rule)
    if slots.counts[RUNNING] > 0 and most > pool.free.shape[0]:
        return NONE
    slot = int(slots.vacant[slots.running.shape[0] - slots.counts[RUNNING] - 1])
    for i in range(full):
        hold(pool, path[i], slot)
        slots.pages[slot, i] = path[i]
    if source != NONE:
        hold(pool, source, slot)
    slots.request[slot] = request
    slots.computed[slot] = 0
    slots.shared[slot] = full
    slots.n_pages[slot] = full
    slots.source[slot] = source
    slots.source_tokens[slot] = common
    slots.prefilling[slot] = 1
    slots.running[slots.counts[RUNNING]] = slot
    slots.counts[RUNNING] += 1
    enter(slots, slot, due, base)
    _take_pages(pool, requests, slots, slot, new_pages, not duplicate)
    reused = full * size + common
    if requests.hits[request] < 0:
        requests.hits[request] = reused
        slots.counts[HIT_TOKENS] += reused
    elif requests.stored[request] > reused:
        slots.counts[RECOMPUTED_TOKENS] += requests.stored[request] - reused
    return slot


@njit_in_place
def _take_pages(pool: PagePool, requests: Requests, slots: Slots, slot: int, count: int, enter: bool) -> None:
    """Append `count` new pages; if `enter`, those of the prompt go into the tree, owned by this slot.

    `enter` is False where a node already stands for the rest of the prompt: it must not be entered twice.
    """
    size = pool.tokens.shape[1]
    request = slots.request[slot]
    prompt = requests.tokens[requests.start[request] : requests.start[request + 1]]
    for _ in range(count):
        i = slots.n_pages[slot]
        page = take_page(pool, slot)
        slots.pages[slot, i] = page
        slots.n_pages[slot] = i + 1
        if enter and i * size < prompt.shape[0]:
            parent = slots.pages[slot, i - 1] if i > 0 else NONE
            insert(pool, page, parent, prompt[i * size : min((i + 1) * size, prompt.shape[0])])
            pool.owner[page] = slot
