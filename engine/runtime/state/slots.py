"""Scheduler state as structs of arrays: requests, running slots, and the work of one step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# Indices into `Slots.counts`, which counts over the whole run.
(
    RUNNING,
    STEP,
    PREFILL_TOKENS,
    DECODE_TOKENS,
    RECOMPUTED_TOKENS,
    RETRACTIONS,
    FINISHED,
    HIT_TOKENS,
    PEAK_RUNNING,
) = range(9)
UNFINISHED, STOPPED, LENGTH = 0, 1, 2


class Requests(NamedTuple):
    """The N requests of an engine run.

    Attributes
    ----------
    tokens, start
        int32 [total], int64 [N + 1]: the prompts, flat.
    max_new
        int32 [N]: most tokens to generate; at least 1.
    estimate
        float64 [N]: expected output tokens.
    generated
        int32 [N]: tokens generated so far; they survive a retraction.
    stored
        int32 [N]: most tokens whose KV was ever stored for the request, to count what is computed twice.
    hits
        int32 [N]: prompt tokens taken from the cache at the first admission; -1 before it.
    ignore_stop
        int8 [N]: 1 if the model's stop tokens do not end the answer.
    """

    tokens: Int32
    start: Int64
    max_new: Int32
    estimate: Float64
    generated: Int32
    stored: Int32
    hits: Int32
    ignore_stop: Int8


class Slots(NamedTuple):
    """The running sequences, one row each; a row outlives its request only as garbage.

    Attributes
    ----------
    counts
        int64 [9]: see the index constants of this module.
    running, vacant
        int32 [S]: slots in order of admission (the first ``counts[RUNNING]``); stack of unused slots (the
        remaining ``S - counts[RUNNING]`` entries from the front).
    request, side
        int32 [S]: the request index, and the scan side that admitted it.
    computed
        int32 [S]: leading tokens whose KV the sequence can read.
    shared
        int32 [S]: leading pages found in the cache; the others were taken for this sequence.
    pages, n_pages
        int32 [S, P], [S]: the page table.
    source, source_tokens
        int32 [S]: page to copy a partial hit from (or -1), and how many tokens of it.
    output
        int32 [S, longest answer]: the generated tokens.
    due
        float64 [S]: the last step in which the sequence is expected to hold memory.
    base
        float64 [S]: at step T, up to `due`, it holds at most ``base + T / page size`` pages.
    by_due
        int32 [S]: the running slots by `due`, soonest first (the first ``counts[RUNNING]``).
    path
        int32 [P + 1]: scratch memory of admission, for the pages that it finds.
    fresh
        int8 [S]: 1 until its prompt is computed, while `due` rests on a guess of when that will be.
    """

    counts: Int64
    running: Int32
    vacant: Int32
    request: Int32
    side: Int32
    computed: Int32
    shared: Int32
    pages: Int32
    n_pages: Int32
    source: Int32
    source_tokens: Int32
    output: Int32
    due: Float64
    base: Float64
    by_due: Int32
    path: Int32
    fresh: Int8


class Work(NamedTuple):
    """What one step computes; `size` says how much of each array is valid.

    Attributes
    ----------
    size
        int64 [7]: tokens, sequences, samples, copies, KV tokens read by attention; of these, those read
        by decoding sequences; and the sum over prefill tokens of the keys each of them sees.
    tokens, positions, pages, slots
        int64 [T]: token id, position, and place of its KV.
    first, length, context, slot
        int32 [S] per sequence: its first row, number of rows, tokens it attends to at its last row, slot.
    sample_rows, sample_slots
        int64 [S], int32 [S]: rows to sample and the slots they belong to.
    copies
        int32 [S, 3]: (source page, target page, tokens), to be done before the step.
    """

    size: Int64
    tokens: Int64
    positions: Int64
    pages: Int64
    slots: Int64
    first: Int32
    length: Int32
    context: Int32
    slot: Int32
    sample_rows: Int64
    sample_slots: Int32
    copies: Int32


# Indices into `Work.size`.
W_TOKENS, W_SEQUENCES, W_SAMPLES, W_COPIES, W_KV_READ, W_KV_DECODE, W_ATTENDED = range(7)


def make_requests(
    tokens: Int32, start: Int64, max_new: Int32, estimate: Float64, ignore_stop: Int8
) -> Requests:
    """Return the request table with nothing generated yet."""
    n = max_new.shape[0]
    return Requests(
        tokens=np.ascontiguousarray(tokens, np.int32),
        start=np.ascontiguousarray(start, np.int64),
        max_new=np.ascontiguousarray(max_new, np.int32),
        estimate=np.ascontiguousarray(estimate, np.float64),
        generated=np.zeros(n, np.int32),
        stored=np.zeros(n, np.int32),
        hits=np.full(n, -1, np.int32),
        ignore_stop=np.ascontiguousarray(ignore_stop, np.int8),
    )


def make_slots(slots: int, pages_each: int, longest_answer: int) -> Slots:
    """Return empty slots; a sequence may hold up to `pages_each` pages."""
    return Slots(
        counts=np.zeros(9, np.int64),
        running=np.zeros(slots, np.int32),
        vacant=np.arange(slots - 1, -1, -1, dtype=np.int32),
        request=np.full(slots, -1, np.int32),
        side=np.zeros(slots, np.int32),
        computed=np.zeros(slots, np.int32),
        shared=np.zeros(slots, np.int32),
        pages=np.zeros((slots, pages_each), np.int32),
        n_pages=np.zeros(slots, np.int32),
        source=np.full(slots, -1, np.int32),
        source_tokens=np.zeros(slots, np.int32),
        output=np.zeros((slots, longest_answer), np.int32),
        due=np.zeros(slots, np.float64),
        base=np.zeros(slots, np.float64),
        by_due=np.zeros(slots, np.int32),
        path=np.zeros(pages_each + 1, np.int32),
        fresh=np.zeros(slots, np.int8),
    )


def make_work(token_budget: int, slots: int) -> Work:
    """Return buffers for steps of up to `token_budget` tokens."""
    return Work(
        size=np.zeros(7, np.int64),
        tokens=np.zeros(token_budget, np.int64),
        positions=np.zeros(token_budget, np.int64),
        pages=np.zeros(token_budget, np.int64),
        slots=np.zeros(token_budget, np.int64),
        first=np.zeros(slots, np.int32),
        length=np.zeros(slots, np.int32),
        context=np.zeros(slots, np.int32),
        slot=np.zeros(slots, np.int32),
        sample_rows=np.zeros(slots, np.int64),
        sample_slots=np.zeros(slots, np.int32),
        copies=np.zeros((slots, 3), np.int32),
    )
