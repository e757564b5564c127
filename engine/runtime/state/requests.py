"""The requests of an engine run: their prompts and limits, and how far each one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.arrays import frozen
from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Float64, Int8, Int32, Int64

UNFINISHED, STOPPED, LENGTH = 0, 1, 2
"""How an answer ended: not yet, at a stop token or stop string, at its length limit."""


@struct(frozen=("tokens", "start"))
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
        int32 [N]: tokens generated so far; they survive a preemption.
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


def make_requests(
    tokens: Int32, start: Int64, max_new: Int32, estimate: Float64, ignore_stop: Int8
) -> Requests:
    """Return the request table with nothing generated yet."""
    n = max_new.shape[0]
    return Requests(
        tokens=frozen(np.asarray(tokens, np.int32)),
        start=frozen(np.asarray(start, np.int64)),
        max_new=np.ascontiguousarray(max_new, np.int32),
        estimate=np.ascontiguousarray(estimate, np.float64),
        generated=np.zeros(n, np.int32),
        stored=np.zeros(n, np.int32),
        hits=np.full(n, -1, np.int32),
        ignore_stop=np.ascontiguousarray(ignore_stop, np.int8),
    )
