"""The capacity ledger: how many pages the running sequences will hold, from now to the end of the last one.

Every running sequence is a straight line: at step T, until the step `due` in which it is expected to end, it
holds at most ``base + T / page size`` pages, where `base` already rounds up to whole pages. The line is fixed
when the sequence is admitted, and drawn anew when its prompt is computed and when it outgrows its expected
length; time alone changes nothing. The sum of the lines is largest just before one of them ends, so only
those steps are looked at, in one pass over the sequences in the order of their ends (`Slots.by_due`).

Pages that several sequences hold are counted as if they stayed.
"""

from __future__ import annotations

import numpy as np

from engine.jit import entry, njit_in_place
from engine.runtime.kv.pages import PagePool, held
from engine.runtime.state import RUNNING, Requests, Slots

OUTGROWN_STRETCH = 1.25
EVERY = -1
"""Both sides, where one is asked for."""
PEAK, TOTAL, AVERAGE = 0, 1, 2
RULES = {"peak": PEAK, "total": TOTAL, "average": AVERAGE}
"""What has to fit into memory for a request to be admitted: the forecast peak; or, only to compare with,
prompts and whole answers of all that run, or prompts and half of the answers."""


@njit_in_place
def expected_output(requests: Requests, request: int) -> float:
    """Return E[d | d > generated]: the estimate, and a stretched one once the answer has outgrown it."""
    done = float(requests.generated[request])
    expected = requests.estimate[request]
    if done >= expected:
        expected = OUTGROWN_STRETCH * done + 1.0
    return float(min(expected, requests.max_new[request]))


@njit_in_place
def remaining_output(requests: Requests, request: int) -> float:
    """Return how many tokens a request that is not finished is expected to generate still, at least 1."""
    return float(max(1.0, np.ceil(expected_output(requests, request) - requests.generated[request])))


@njit_in_place
def known_tokens(requests: Requests, request: int) -> int:
    """Return prompt plus generated tokens."""
    prompt = requests.start[request + 1] - requests.start[request]
    return int(prompt + requests.generated[request])


@njit_in_place
def draw(requests: Requests, request: int, step: float, delay: float, size: int) -> tuple[float, float]:
    """Return (due, base) of a request that decodes from `step` on, or up to `delay` steps later."""
    due = step + delay + remaining_output(requests, request) - 1.0
    return due, (known_tokens(requests, request) + size - 1 - step) / size


@njit_in_place
def enter(slots: Slots, slot: int, due: float, base: float) -> None:
    """Put `slot` into `by_due`, which must hold ``counts[RUNNING] - 1`` entries."""
    slots.due[slot], slots.base[slot] = due, base
    place = slots.counts[RUNNING] - 1
    while place > 0 and slots.due[slots.by_due[place - 1]] > due:
        slots.by_due[place] = slots.by_due[place - 1]
        place -= 1
    slots.by_due[place] = slot


@njit_in_place
def leave(slots: Slots, slot: int) -> None:
    """Take `slot` out of the ``counts[RUNNING]`` entries of `by_due`."""
    n, low, high = slots.counts[RUNNING], 0, slots.counts[RUNNING]
    while low < high:
        middle = (low + high) // 2
        if slots.due[slots.by_due[middle]] < slots.due[slot]:
            low = middle + 1
        else:
            high = middle
    while slots.by_due[low] != slot:
        low += 1
    for place in range(low, n - 1):
        slots.by_due[place] = slots.by_due[place + 1]


@njit_in_place
def settle(requests: Requests, slots: Slots, slot: int, step: float, size: int) -> None:
    """Draw the line of `slot` anew: its prompt is computed, and it generates from `step` on."""
    _draw_anew(requests, slots, slot, step, 0.0, size)
    slots.prefilling[slot] = 0


@njit_in_place
def refresh(requests: Requests, slots: Slots, step: float, size: int, token_budget: int) -> bool:
    """Draw the lines of all sequences that should have ended before `step`.

    Returns whether an answer among them is longer than expected. One token is not counted: a runner that is
    a step behind has not seen its end yet.
    """
    outgrown = False
    while slots.counts[RUNNING] > 0 and slots.due[slots.by_due[0]] < step:
        slot = slots.by_due[0]
        request = slots.request[slot]
        outgrown |= requests.generated[request] > requests.estimate[request] + 1.0
        _draw_anew(requests, slots, slot, step, _delay(requests, slots, slot, token_budget), size)
    return outgrown


@entry(in_place=True)
def redraw(requests: Requests, slots: Slots, step: float, size: int, token_budget: int) -> None:
    """Draw the lines of all running sequences anew: their estimates have changed."""
    for i in range(slots.counts[RUNNING]):
        slot = slots.running[i]
        _draw_anew(requests, slots, slot, step, _delay(requests, slots, slot, token_budget), size)


@njit_in_place
def _delay(requests: Requests, slots: Slots, slot: int, token_budget: int) -> float:
    """Return how many steps the prompt of a running sequence still takes, at least."""
    if not slots.prefilling[slot]:
        return 0.0
    missing = known_tokens(requests, slots.request[slot]) - slots.computed[slot]
    return float(np.ceil(missing / token_budget))


@njit_in_place
def _draw_anew(requests: Requests, slots: Slots, slot: int, step: float, delay: float, size: int) -> None:
    due, base = draw(requests, slots.request[slot], step, delay, size)
    leave(slots, slot)
    enter(slots, slot, due, base)


@njit_in_place
def peak(pool: PagePool, slots: Slots, due: float, base: float, shared: int) -> float:
    """Return the largest number of pages held at any time until a candidate, if admitted, has ended.

    Parameters
    ----------
    due, base
        The candidate's line.
    shared
        Pages of it that others hold already, each by at least two of them.
    """
    alone = 0
    for i in range(slots.counts[RUNNING]):
        alone += pool.alone[slots.by_due[i]]
    return held(pool) - alone + _highest(pool, slots, EVERY, due, base - shared)


@njit_in_place
def reserved(pool: PagePool, requests: Requests, slots: Slots, request: int, found: int, rule: int) -> float:
    """Return the pages of all prompts and of the part of all answers that `rule` (TOTAL or AVERAGE) reserves.

    Pages that several sequences hold count once. `found` are those that `request`, the candidate, shares.
    """
    size, part = pool.tokens.shape[1], 1.0 if rule == TOTAL else 0.5
    prompt = requests.start[request + 1] - requests.start[request]
    pages = held(pool) + (prompt + part * expected_output(requests, request)) / size - found
    for i in range(slots.counts[RUNNING]):
        running = slots.request[slots.by_due[i]]
        pages += (part * expected_output(requests, running) - requests.generated[running]) / size
    return float(pages)


@njit_in_place
def side_peak(pool: PagePool, slots: Slots, side: int, due: float, base: float) -> float:
    """Return the largest number of pages that one side will hold, with a candidate admitted to it.

    Shared pages count once for each sequence: what the side reads, not what it occupies.
    """
    return _highest(pool, slots, side, due, base)


@njit_in_place
def side_top(pool: PagePool, slots: Slots, side: int) -> tuple[float, float]:
    """Return the largest number of pages that one side will hold as it is, and the step in which it does."""
    size = pool.tokens.shape[1]
    most, at, total, alive = 0.0, 0.0, 0.0, 0
    for i in range(slots.counts[RUNNING] - 1, -1, -1):
        slot = slots.by_due[i]
        if slots.side[slot] != side:
            continue
        total += slots.base[slot]
        alive += 1
        here = total + alive * slots.due[slot] / size
        if here > most:
            most, at = here, slots.due[slot]
    return most, at


@njit_in_place
def _highest(pool: PagePool, slots: Slots, side: int, due: float, base: float) -> float:
    """Return the highest sum of the lines of one side and a candidate.

    Of `EVERY` side it is less shared pages, and until the candidate's end.
    """
    size = pool.tokens.shape[1]
    most, total, alive, placed = 0.0, 0.0, 0, False
    for i in range(slots.counts[RUNNING] - 1, -1, -1):
        slot = slots.by_due[i]
        if not placed and due >= slots.due[slot]:
            total += base
            alive += 1
            placed = True
            most = max(most, total + alive * due / size)
        if side == EVERY:
            total += pool.alone[slot] - slots.n_pages[slot]
        elif slots.side[slot] != side:
            continue
        total += slots.base[slot]
        alive += 1
        # What is held after the candidate's end is not its doing: refusing it would not help.
        if placed or side != EVERY:
            most = max(most, total + alive * slots.due[slot] / size)
    if not placed:
        most = max(most, total + base + (alive + 1) * due / size)
    return most
