"""Admission: which waiting requests join the running ones, and when memory pressure sends one back.

Two ledgers, which must not be confused. *Capacity* decides whether a request fits: the largest number of
distinct pages that will ever be held from now on (`engine.runtime.schedule.forecast`). *Side balance* keeps
room for compute-heavy requests: memory-heavy ones, small while they begin and large when they end, get no
more than their share of the memory even at their common peak. Without it they fill the memory as they grow,
and the compute-heavy requests that should run beside them wait for thousands of steps.
"""

from __future__ import annotations

from engine.cost.step import StepCost, decode_seconds, step_compute_seconds
from engine.jit import njit_in_place
from engine.plan.scan import (
    HEAVY_RETRY,
    LEFT,
    N_HEAVY_RETRY,
    N_RETRY,
    N_RIGHT,
    NOBODY,
    RETRY,
    RIGHT,
    SIDES_MOVED,
    Scan,
    accept,
    cut_off,
    give_back,
    propose,
    rest,
    rests,
    right_share,
    wake,
)
from engine.runtime.kv.pages import CACHED, NONE, PagePool, available, hold, insert, match, release, take_page
from engine.runtime.schedule.forecast import (
    PEAK,
    draw,
    enter,
    known_tokens,
    leave,
    peak,
    remaining_output,
    reserved,
    side_peak,
    side_top,
)
from engine.runtime.schedule.pacing import Outlook, survey
from engine.runtime.state import (
    HIT_TOKENS,
    PEAK_RUNNING,
    RECOMPUTED_TOKENS,
    RETRACTIONS,
    RUNNING,
    STEP,
    Int32,
    Requests,
    Slots,
)

LEFT_RESERVE, LESS_RESERVE = 0.5, 0.35
"""Part of the left side's share that the right side leaves free even at its peak; the lesser one where memory
work limits the run, since the weights are read in fewer steps if the memory is fuller. The share is about
averages and a peak is above its average, so less than the whole: in simulations of balanced mixes 0.3 to 0.6
gives the shortest makespan, 0 starves the left side and 1 leaves memory idle."""
MEMORY_LIMITS = 0.88
"""Memory work limits the run if compute work takes less than this part of its time. Nearer to balance it is
now the one and now the other that limits, and the compute-heavy side needs its room."""
REST = 32
"""Steps for which a side is not asked again after nobody fitted, unless a request ends before: the forecast
does not change by time alone, but the share of the right side does, slowly."""


@njit_in_place
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

    Retracted requests go first; then the memory-heavy side up to its share, since long answers must start
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
            side, place = _longest_that_fits(pool, requests, slots, scan, outlook, delay)
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
def _longest_that_fits(
    pool: PagePool, requests: Requests, slots: Slots, scan: Scan, outlook: Outlook, delay: float
) -> tuple[int, int]:
    """Return side and place of the memory-heavy request to admit next within the side's share, or NONE.

    It is the one retracted last, if there is any; else the longest that fits. The longer an answer, the
    higher the peak, so a binary search finds it (prompts of different lengths make that approximate, which
    costs a little room, never the limit).
    """
    size, step = pool.tokens.shape[1], slots.counts[STEP] + 1
    limit = _right_limit(pool, outlook)
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
def _right_limit(pool: PagePool, outlook: Outlook) -> float:
    """Return the pages that the right side may hold at its peak."""
    share = right_share(outlook.left_memory, outlook.right_memory)
    reserve = LESS_RESERVE if outlook.rho < MEMORY_LIMITS else LEFT_RESERVE
    return float((1.0 - reserve * (1.0 - share)) * pool.free.shape[0])


@njit_in_place
def _right_is_empty(slots: Slots) -> bool:
    heavy = 0
    for i in range(slots.counts[RUNNING]):
        heavy += slots.side[slots.running[i]] == RIGHT
    return heavy == 0


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
    slots.fresh[slot] = 1
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
    """Append `count` fresh pages; if `enter`, those of the prompt go into the tree, owned by this slot.

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


@njit_in_place
def relieve(
    pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost, retracted: Int32
) -> int:
    """Make sure that every running sequence has a page for its next token; retract requests if need be.

    The one that loses the fewest computed tokens goes back to the scan. If estimates have changed, the right
    side is brought back to its share first (`_balance`). Called before `admit`.

    Parameters
    ----------
    retracted
        int32 [S, 2]: receives (request, slot) of each retracted one, whose answer so far is still in
        ``slots.output[slot]``.

    Returns
    -------
    int
        The number retracted.
    """
    size = pool.tokens.shape[1]
    count = 0
    if scan.cursor[SIDES_MOVED]:
        scan.cursor[SIDES_MOVED] = 0
        count = _balance(pool, requests, slots, scan, cost, retracted)
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
        retracted[count, 0] = slots.request[slot]
        retracted[count, 1] = slot
        count += 1
        retract(pool, requests, slots, scan, cost, victim)
    if needed > 0:
        for i in range(slots.counts[RUNNING]):
            slot = slots.running[i]
            if known_tokens(requests, slots.request[slot]) > slots.n_pages[slot] * size:
                take_next_page(pool, slots, slot)
    return count


@njit_in_place
def _balance(
    pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost, retracted: Int32
) -> int:
    """Retract memory-heavy requests until their side keeps to its share; return how many.

    Answers that turn out longer than they seemed take room that compute-heavy requests were to have, for as
    long as they run: thousands of steps in which only the memory is busy. What they have generated is kept;
    computing its KV again later is compute work, and little of it. Nobody is retracted unless somebody of the
    left side waits, and the last one of the right side never is.
    """
    count = 0
    if propose(scan, LEFT, 0) == NOBODY and propose(scan, RETRY, 0) == NOBODY:
        return count
    size = pool.tokens.shape[1]
    limit = _right_limit(pool, survey(pool, requests, slots, scan, cost))
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
        retracted[count, 0] = slots.request[slot]
        retracted[count, 1] = slot
        count += 1
        retract(pool, requests, slots, scan, cost, victim)


@njit_in_place
def take_next_page(pool: PagePool, slots: Slots, slot: int) -> None:
    """Give the sequence in `slot` a page for the tokens that it generates; one must be available."""
    slots.pages[slot, slots.n_pages[slot]] = take_page(pool, slot)
    slots.n_pages[slot] += 1


@njit_in_place
def retract(pool: PagePool, requests: Requests, slots: Slots, scan: Scan, cost: StepCost, place: int) -> None:
    """Send the sequence at ``slots.running[place]`` back to the scan; what it generated is kept."""
    slot = slots.running[place]
    request = slots.request[slot]
    requests.stored[request] = max(requests.stored[request], slots.computed[slot])
    free_slot(pool, slots, place)
    slots.counts[RETRACTIONS] += 1
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
