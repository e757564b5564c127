"""The compiled loop of the simulator: the scheduler's own functions, step by step.

Steps in which all sequences decode, nobody ends and nobody can join are advanced together (`_jump`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.cost.step import StepCost, pair_seconds, step_compute_seconds, step_memory_seconds
from engine.jit import entry, njit_in_place
from engine.plan.scan import SIDES_MOVED, quiet_until
from engine.runtime import state
from engine.runtime.kv.pages import available, held
from engine.runtime.kv.shared_pages import find_groups, leading_single_rows
from engine.runtime.schedule.admission import admit
from engine.runtime.schedule.forecast import known_tokens
from engine.runtime.schedule.pacing import prepare
from engine.runtime.schedule.preemption import relieve, take_next_page
from engine.runtime.schedule.step import build, retire

if TYPE_CHECKING:
    from engine.arrays import Float64, Int32, Int64
    from engine.plan.scan import Scan
    from engine.runtime.kv.pages import PagePool
    from engine.runtime.kv.shared_pages import Groups, Room
    from engine.runtime.state import Requests, Slots, Work

SECONDS, COMPUTE_SECONDS, MEMORY_SECONDS, HELD_SECONDS, PEAK_HELD, JUMPED = range(6)
SUMS: Final = 6
"""How many sums over the steps there are: the numbers above are their places."""
TRACE: Final = (
    "tokens",
    "samples",
    "attended",
    "kv_tokens_read",
    "prefill_tokens",
    "decode_tokens",
    "running",
)
"""What is recorded of each step: the arguments of `engine.cost.step.step_seconds`, and three counts."""
_LEAST_JUMP = 4
"""Fewer steps than this are not worth preparing a jump."""


@entry(in_place=True, dims={"trace": 2, "preempted": 2, "room": 2})
def take_steps(
    pool: PagePool,
    requests: Requests,
    slots: Slots,
    scan: Scan,
    work: Work,
    cost: StepCost,
    ends: Int32,
    paced: bool,
    rule: int,
    sums: Float64,
    trace: Int64,
    pause: Int64,
    preempted: Int32,
    room: Int32,
    tree: Room,
    groups: Groups,
) -> None:
    """Step until all have finished, nobody can go on, the trace is full, or `pause` is reached.

    Parameters
    ----------
    trace
        Receives the steps, unless it has no rows.
    pause
        Finished requests and generated tokens (`engine.plan.replan.Watch`).
    preempted, room
        int32 [S, 2] and [2, max(S, page size + 1)]: scratch memory.
    tree, groups
        Scratch memory for the pages that are read for several sequences together.
    """
    budget = work.tokens.shape[0]
    done = room[0]
    all_decode = False
    while slots.counts[state.FINISHED] < ends.shape[0]:
        if all_decode:
            most = _undisturbed(requests, slots, scan, ends, trace, pause)
            if most >= _LEAST_JUMP:
                _jump(pool, requests, slots, work, cost, sums, trace, most, room[0], room[1], tree, groups)
        if trace.shape[0] > 0 and slots.counts[state.STEP] == trace.shape[0]:
            break
        relieve(pool, requests, slots, scan, cost, preempted)
        outlook, step_tokens = prepare(pool, requests, slots, scan, cost, budget, paced)
        admit(pool, requests, slots, scan, outlook, step_tokens, rule)
        prefilled = slots.counts[state.PREFILL_TOKENS]
        tokens = build(pool, requests, slots, work, step_tokens, rows=False)
        if tokens == 0:
            break
        samples, attended = work.size[state.W_SAMPLES], work.size[state.W_ATTENDED]
        prefilled = slots.counts[state.PREFILL_TOKENS] - prefilled
        read, running = work.size[state.W_KV_DECODE], slots.counts[state.RUNNING]
        if cost.shared_read < 1.0:
            size, count = pool.tokens.shape[1], leading_single_rows(work)
            read -= int(find_groups(slots.pages, work.slot, work.context, count, size, cost, tree, groups))
        _add_step(pool, slots, cost, sums, trace, tokens, samples, attended, read, prefilled)
        all_decode = samples == running
        n = 0
        for i in range(samples):
            slot = work.sample_slots[i]
            request = slots.request[slot]
            requests.generated[request] += 1
            if requests.generated[request] == ends[request]:
                done[n] = slot
                n += 1
        retire(pool, slots, scan, done[:n])
        if slots.counts[state.FINISHED] >= pause[0] or slots.counts[state.DECODE_TOKENS] >= pause[1]:
            break


@njit_in_place
def _add_step(
    pool: PagePool,
    slots: Slots,
    cost: StepCost,
    sums: Float64,
    trace: Int64,
    tokens: int,
    samples: int,
    attended: int,
    read: int,
    prefilled: int,
) -> None:
    """Add the step ``counts[STEP]`` to the sums and, if it has rows, to the trace."""
    compute = step_compute_seconds(cost, float(tokens), float(samples), float(attended))
    memory = step_memory_seconds(cost, float(tokens), float(read))
    seconds, pages = pair_seconds(cost, compute, memory), held(pool)
    sums[SECONDS] += seconds
    sums[COMPUTE_SECONDS] += compute
    sums[MEMORY_SECONDS] += memory
    sums[HELD_SECONDS] += pages * seconds
    sums[PEAK_HELD] = max(sums[PEAK_HELD], pages)
    if trace.shape[0] > 0:
        row = trace[slots.counts[state.STEP] - 1]
        row[0], row[1], row[2], row[3] = tokens, samples, attended, read
        row[4], row[5], row[6] = prefilled, tokens - prefilled, slots.counts[state.RUNNING]


@njit_in_place
def _undisturbed(
    requests: Requests, slots: Slots, scan: Scan, ends: Int32, trace: Int64, pause: Int64
) -> int:
    """Return for how many steps of sequences that all decode nobody ends, joins, or is expected anew.

    Memory may still run out before.
    """
    running, step = slots.counts[state.RUNNING], slots.counts[state.STEP]
    if running == 0 or scan.cursor[SIDES_MOVED]:
        return 0
    # Nobody's line is drawn anew before the soonest expected end is past (`forecast.refresh`).
    most = int(min(slots.due[slots.by_due[0]], 1e9)) - step
    if running < slots.running.shape[0]:
        most = min(most, quiet_until(scan) - 1 - step)
    if trace.shape[0] > 0:
        most = min(most, trace.shape[0] - step)
    most = min(most, (pause[1] - slots.counts[state.DECODE_TOKENS] - 1) // running)
    for i in range(running):
        if most < _LEAST_JUMP:
            break
        request = slots.request[slots.running[i]]
        most = min(most, ends[request] - requests.generated[request] - 1)
    return int(most)


@njit_in_place
def _jump(
    pool: PagePool,
    requests: Requests,
    slots: Slots,
    work: Work,
    cost: StepCost,
    sums: Float64,
    trace: Int64,
    most: int,
    order: Int32,
    turns: Int32,
    tree: Room,
    groups: Groups,
) -> None:
    """Let all running sequences decode for `most` steps, or until memory runs out.

    The pages are taken in the order in which single steps take them: those of a step in the order of
    admission. A sequence needs one every page size steps, so they are sorted by turn once (into `order`,
    those of turn t from ``turns[t]`` on).
    """
    size, running = pool.tokens.shape[1], int(slots.counts[state.RUNNING])
    turns[: size + 1] = 0
    read = 0
    for i in range(running):
        slot = slots.running[i]
        known = known_tokens(requests, slots.request[slot])
        read += known
        work.context[i] = known
        turns[(slots.n_pages[slot] * size - known) % size + 1] += 1
    for turn in range(size):
        turns[turn + 1] += turns[turn]
    for i in range(running):
        slot = slots.running[i]
        turn = (slots.n_pages[slot] * size - known_tokens(requests, slots.request[slot])) % size
        order[turns[turn]] = slot
        turns[turn] += 1
    for turn in range(size, 0, -1):
        turns[turn] = turns[turn - 1]
    turns[0] = 0
    if cost.shared_read < 1.0:
        # Nobody shares the pages that are taken from here on.
        read -= int(find_groups(slots.pages, slots.running, work.context, running, size, cost, tree, groups))
    done = 0
    # A sequence whose known tokens fill its pages to the last one takes the next page one step later.
    while done < most:
        turn = (done - 1) % size
        first, last = turns[turn], turns[turn + 1]
        if last - first > available(pool):
            break
        for i in range(first, last):
            take_next_page(pool, slots, order[i])
        slots.counts[state.STEP] += 1
        _add_step(pool, slots, cost, sums, trace, running, running, 0, read, 0)
        read += running
        done += 1
    slots.counts[state.DECODE_TOKENS] += done * running
    sums[JUMPED] += done
    for i in range(running):
        slot = slots.running[i]
        slots.computed[slot] += done
        requests.generated[slots.request[slot]] += done
