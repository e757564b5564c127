"""The running sequences, each in a slot of its own, and what the run has counted so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Float64, Int8, Int32, Int64

# Indices into `Slots.counts`, which counts over the whole run.
(
    RUNNING,
    STEP,
    PREFILL_TOKENS,
    DECODE_TOKENS,
    RECOMPUTED_TOKENS,
    PREEMPTIONS,
    FINISHED,
    HIT_TOKENS,
    PEAK_RUNNING,
) = range(9)


@struct(dims={"pages": 2, "output": 2})
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
    prefilling
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
    prefilling: Int8


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
        prefilling=np.zeros(slots, np.int8),
    )
