"""What one step computes: written by the scheduler, read by a model runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Int32, Int64

# Indices into `Work.size`.
W_TOKENS, W_SEQUENCES, W_SAMPLES, W_COPIES, W_KV_READ, W_KV_DECODE, W_ATTENDED = range(7)
PLACEHOLDER = -1
"""Stands in `Slots.output`, and so in `Work.tokens`, for a token that only the device knows."""


@struct(dims={"copies": 2})
class Work(NamedTuple):
    """What one step computes; `size` says how much of each array is valid.

    Attributes
    ----------
    size
        int64 [7]: tokens, sequences, samples, copies, KV tokens read by attention; of these, those read
        by decoding sequences; and the sum over prefill tokens of the keys each of them sees.
    tokens, positions, pages, offsets
        int64 [T]: token id, position, and place of its KV: page, offset in it.
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
    offsets: Int64
    first: Int32
    length: Int32
    context: Int32
    slot: Int32
    sample_rows: Int64
    sample_slots: Int32
    copies: Int32


def make_work(token_budget: int, slots: int) -> Work:
    """Return buffers for steps of up to `token_budget` tokens."""
    return Work(
        size=np.zeros(7, np.int64),
        tokens=np.zeros(token_budget, np.int64),
        positions=np.zeros(token_budget, np.int64),
        pages=np.zeros(token_budget, np.int64),
        offsets=np.zeros(token_budget, np.int64),
        first=np.zeros(slots, np.int32),
        length=np.zeros(slots, np.int32),
        context=np.zeros(slots, np.int32),
        slot=np.zeros(slots, np.int32),
        sample_rows=np.zeros(slots, np.int64),
        sample_slots=np.zeros(slots, np.int32),
        copies=np.zeros((slots, 3), np.int32),
    )
