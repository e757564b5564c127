"""What the loop, the scheduler and the runners hand to each other, as structs of arrays.

`Requests` says how far every request is, `Slots` holds the running sequences, `Work` what one step computes.
What a model runner has to do with them is in `runner`.
"""

from engine.runtime.state.requests import LENGTH, STOPPED, UNFINISHED, Requests, make_requests
from engine.runtime.state.slots import (
    DECODE_TOKENS,
    FINISHED,
    HIT_TOKENS,
    PEAK_RUNNING,
    PREEMPTIONS,
    PREFILL_TOKENS,
    RECOMPUTED_TOKENS,
    RUNNING,
    STEP,
    Slots,
    make_slots,
)
from engine.runtime.state.work import (
    PLACEHOLDER,
    W_ATTENDED,
    W_COPIES,
    W_KV_DECODE,
    W_KV_READ,
    W_SAMPLES,
    W_SEQUENCES,
    W_TOKENS,
    Work,
    make_work,
)

__all__ = [
    "DECODE_TOKENS",
    "FINISHED",
    "HIT_TOKENS",
    "LENGTH",
    "PEAK_RUNNING",
    "PLACEHOLDER",
    "PREEMPTIONS",
    "PREFILL_TOKENS",
    "RECOMPUTED_TOKENS",
    "RUNNING",
    "STEP",
    "STOPPED",
    "UNFINISHED",
    "W_ATTENDED",
    "W_COPIES",
    "W_KV_DECODE",
    "W_KV_READ",
    "W_SAMPLES",
    "W_SEQUENCES",
    "W_TOKENS",
    "Requests",
    "Slots",
    "Work",
    "make_requests",
    "make_slots",
    "make_work",
]
