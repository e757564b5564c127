"""The scheduler without phases: the computed tokens of each sequence catch up with its known ones.

Chunked prefill, prefix hits, decode and mixtures of them are one rule (`build`). A page of the prompt that
another running sequence is computing is waited for, not computed again; if that sequence is gone, the
follower takes the page over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.jit import entry, njit_in_place
from engine.plan.scan import Scan, wake
from engine.runtime.kv.pages import CACHED, NONE, PagePool, release
from engine.runtime.schedule.forecast import known_tokens, settle
from engine.runtime.schedule.preemption import free_slot
from engine.runtime.state import (
    DECODE_TOKENS,
    FINISHED,
    HIT_TOKENS,
    PREFILL_TOKENS,
    RUNNING,
    STEP,
    W_ATTENDED,
    W_COPIES,
    W_KV_DECODE,
    W_KV_READ,
    W_SAMPLES,
    W_SEQUENCES,
    W_TOKENS,
    Requests,
    Slots,
    Work,
)

if TYPE_CHECKING:
    from engine.arrays import Int32


@entry(in_place=True)
def build(pool: PagePool, requests: Requests, slots: Slots, work: Work, token_budget: int, rows: bool) -> int:
    """Fill `work` with the next step, at most `token_budget` tokens, decoding sequences first.

    Without `rows` only its sizes, sequences and samples are filled: what a simulation needs.

    Returns the number of tokens; 0 only if nothing is running.
    """
    slots.counts[STEP] += 1
    work.size[:] = 0
    _decode(requests, slots, work, token_budget, pool.tokens.shape[1], rows)
    for i in range(slots.counts[RUNNING]):
        slot = slots.running[i]
        room = token_budget - work.size[W_TOKENS]
        if room <= 0:
            break
        if slots.prefilling[slot] == 0 or not _catch_up(pool, requests, slots, work, slot):
            continue
        count = _claim(pool, requests, slots, slot, room)
        if count > 0:
            _emit(pool, requests, slots, work, slot, count, rows)
    return int(work.size[W_TOKENS])


@njit_in_place
def _decode(
    requests: Requests, slots: Slots, work: Work, token_budget: int, page_size: int, rows: bool
) -> None:
    """Fill `work` with one token of every sequence that only lacks the token sampled last.

    Most of a run is spent here, so it calls nothing: the arguments of a call are some hundred numbers.
    """
    n, read = 0, 0
    for i in range(min(slots.counts[RUNNING], token_budget)):
        slot = slots.running[i]
        request, place = slots.request[slot], slots.computed[slot]
        prompt = requests.start[request + 1] - requests.start[request]
        # Nothing is left to compute while the last token of an answer is on its way.
        if slots.prefilling[slot] or place >= prompt + requests.generated[request]:
            continue
        if rows:
            work.tokens[n] = slots.output[slot, requests.generated[request] - 1]
            work.positions[n] = place
            work.pages[n] = slots.pages[slot, place // page_size]
            work.offsets[n] = place % page_size
        work.first[n] = n
        work.length[n] = 1
        work.context[n] = place + 1
        work.slot[n] = slot
        work.sample_rows[n] = n
        work.sample_slots[n] = slot
        slots.computed[slot] = place + 1
        read += place + 1
        n += 1
    work.size[W_TOKENS] = work.size[W_SEQUENCES] = work.size[W_SAMPLES] = n
    work.size[W_KV_READ] = work.size[W_KV_DECODE] = read
    slots.counts[DECODE_TOKENS] += n


@njit_in_place
def _catch_up(pool: PagePool, requests: Requests, slots: Slots, work: Work, slot: int) -> bool:
    """Advance over shared pages that are ready and copy a partial hit; False if the sequence must wait."""
    size = pool.tokens.shape[1]
    shared = slots.shared[slot]
    while slots.computed[slot] < shared * size:
        page_index = slots.computed[slot] // size
        page = slots.pages[slot, page_index]
        slots.computed[slot] = max(slots.computed[slot], page_index * size + pool.ready[page])
        if pool.ready[page] < size:
            return bool(pool.owner[page] == NONE or pool.owner[page] == slot)
    source = slots.source[slot]
    if source == NONE:
        return True
    tokens = slots.source_tokens[slot]
    if pool.ready[source] >= tokens and pool.ready_step[source] < slots.counts[STEP]:
        target = slots.pages[slot, shared]
        row = work.copies[work.size[W_COPIES]]
        row[0], row[1], row[2] = source, target, tokens
        work.size[W_COPIES] += 1
        slots.computed[slot] += tokens
        _mark_ready(pool, target, tokens, slots.counts[STEP])
    elif pool.ready[source] < tokens and pool.owner[source] == NONE:
        _lose_hits(requests, slots, slot, tokens)
    else:
        return False
    slots.source[slot] = NONE
    release(pool, source, slot)
    return True


@njit_in_place
def _lose_hits(requests: Requests, slots: Slots, slot: int, tokens: int) -> None:
    """Take back hits that were counted at admission and must now be computed after all."""
    request = slots.request[slot]
    lost = min(tokens, requests.hits[request])
    requests.hits[request] -= lost
    slots.counts[HIT_TOKENS] -= lost


@njit_in_place
def _mark_ready(pool: PagePool, page: int, tokens: int, step: int) -> None:
    # Generated tokens that follow the prompt in its last page do not make the node any more ready.
    ready = min(pool.length[page], tokens)
    if pool.state[page] == CACHED and ready > pool.ready[page]:
        pool.ready[page] = ready
        pool.ready_step[page] = step


@njit_in_place
def _claim(pool: PagePool, requests: Requests, slots: Slots, slot: int, limit: int) -> int:
    """Return how many tokens the sequence may compute now, taking over shared pages left by others."""
    size = pool.tokens.shape[1]
    start = slots.computed[slot]
    end = min(start + limit, known_tokens(requests, slots.request[slot]))
    place = start
    while place < min(end, slots.shared[slot] * size):
        page = slots.pages[slot, place // size]
        if pool.owner[page] == NONE and pool.ready[page] < size:
            pool.owner[page] = slot
            _lose_hits(requests, slots, slot, size - pool.ready[page])
        if pool.owner[page] != slot:
            end = place
            break
        place = (place // size + 1) * size
    return int(end - start)


@njit_in_place
def _emit(
    pool: PagePool, requests: Requests, slots: Slots, work: Work, slot: int, count: int, rows: bool
) -> None:
    size = pool.tokens.shape[1]
    request = slots.request[slot]
    prompt = requests.start[request + 1] - requests.start[request]
    start = slots.computed[slot]
    end = start + count
    if rows:
        _fill_rows(requests, slots, work, slot, count, size)
    for index in range(start // size, (min(end, prompt) + size - 1) // size):
        _mark_ready(pool, slots.pages[slot, index], min(end - index * size, size), slots.counts[STEP])
    sequence, row = work.size[W_SEQUENCES], work.size[W_TOKENS]
    work.first[sequence] = row
    work.length[sequence] = count
    work.context[sequence] = end
    work.slot[sequence] = slot
    work.size[W_SEQUENCES] += 1
    work.size[W_TOKENS] += count
    work.size[W_KV_READ] += end
    slots.computed[slot] = end
    work.size[W_ATTENDED] += count * start + count * (count + 1) // 2
    if start >= prompt:
        slots.counts[DECODE_TOKENS] += count
    else:
        slots.counts[PREFILL_TOKENS] += count
    if end == known_tokens(requests, request):
        sample = work.size[W_SAMPLES]
        work.sample_rows[sample] = row + count - 1
        work.sample_slots[sample] = slot
        work.size[W_SAMPLES] += 1
        if slots.prefilling[slot]:
            settle(requests, slots, slot, slots.counts[STEP], size)


@njit_in_place
def _fill_rows(requests: Requests, slots: Slots, work: Work, slot: int, count: int, size: int) -> None:
    first_token = requests.start[slots.request[slot]]
    prompt = requests.start[slots.request[slot] + 1] - first_token
    row, start = work.size[W_TOKENS], slots.computed[slot]
    for i in range(count):
        place = start + i
        if place < prompt:
            work.tokens[row + i] = requests.tokens[first_token + place]
        else:
            work.tokens[row + i] = slots.output[slot, place - prompt]
        work.positions[row + i] = place
        work.pages[row + i] = slots.pages[slot, place // size]
        work.offsets[row + i] = place % size


@entry(in_place=True)
def retire(pool: PagePool, slots: Slots, scan: Scan, finished: Int32) -> None:
    """Release the slots in `finished` (int32, slot numbers) and let admission go on."""
    for k in range(finished.shape[0]):
        for place in range(slots.counts[RUNNING]):
            if slots.running[place] == finished[k]:
                free_slot(pool, slots, place)
                slots.counts[FINISHED] += 1
                break
    if finished.shape[0] > 0:
        wake(scan)
