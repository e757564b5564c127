"""How long the steps of a recorded run take on a modelled device, with and without overlap.

The composition of steps does not depend on how compute and memory work get on together, so one recorded run
serves every assumption about that, and about a device that turns out faster or slower than the plan took it
for. GEMMs read their weights while they compute, also in an engine without overlap of operations:

    C = max(GEMM seconds, n * weight seconds) + attention of prompts,   K = KV read and written
    serial     = C + K                                      n = 1
    overlapped = max(pair(C, K), n * weight seconds + K)    n = 2: each half of the requests reads the weights
    a step with overlap takes the smaller of the two

A profile that was fitted to measured steps as a sum of compute and memory time is used as it was fitted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.cost.step import pair_seconds, step_compute_seconds, step_memory_seconds
from engine.jit import entry

if TYPE_CHECKING:
    from engine.arrays import Float64, Int64
    from engine.cost.step import StepCost

HALVES: Final = 2
"""Parts that a step with overlap is cut into."""
_TOKENS, _SAMPLES, _ATTENDED, _KV_READ, _PREFILL = range(5)


def step_times(cost: StepCost, trace: Int64, *, overlap: bool, fitted: bool) -> Float64:
    """Return the seconds of each step, float64 [steps].

    Parameters
    ----------
    cost
        The device. Its interference counts where work overlaps.
    trace
        int64 [steps, 7], as `engine.simulate.simulate.simulate` records it.
    fitted
        Whether the device's figures were fitted to measured steps.
    """
    return _step_times(cost, trace, overlap, fitted)


@entry(dims={"trace": 2})
def _step_times(cost: StepCost, trace: Int64, overlap: bool, fitted: bool) -> Float64:
    seconds = np.empty(trace.shape[0])
    for i in range(trace.shape[0]):
        tokens, samples = float(trace[i, _TOKENS]), float(trace[i, _SAMPLES])
        attended, read = float(trace[i, _ATTENDED]), float(trace[i, _KV_READ])
        if fitted:
            compute = step_compute_seconds(cost, tokens, samples, attended)
            memory = step_memory_seconds(cost, tokens, read)
            seconds[i] = pair_seconds(cost, compute, memory) if overlap else compute + memory
            continue
        gemm = step_compute_seconds(cost, tokens, samples, 0.0)
        attention = attended * cost.flops_per_attended / cost.flops
        weights = step_memory_seconds(cost, tokens, -tokens)
        kv = (read + tokens) * cost.kv_bytes_per_token / cost.read_bytes
        serial = max(gemm, weights) + attention + kv
        if overlap:
            halves = HALVES * weights
            together = pair_seconds(cost, max(gemm, halves) + attention, kv)
            serial = min(serial, max(together, halves + kv))
        seconds[i] = serial
    return seconds


def drain_seconds(seconds: Float64, trace: Int64) -> float:
    """Return the seconds that the drain takes longer than its work took at the rate of the time before it.

    The drain begins with the first step after the last one that computed prompt tokens. Its work is the
    tokens it makes and the KV it reads; the rate before is that of whichever of the two it is slower in.

    Parameters
    ----------
    seconds
        float64 [steps], of `step_times`.
    """
    prefills = np.flatnonzero(trace[:, _PREFILL])
    end = int(prefills[-1]) + 1 if prefills.size else 0
    if end in {0, trace.shape[0]}:
        return 0.0
    part = 0.0
    for column in (_TOKENS, _KV_READ):
        work = trace[:, column].astype(np.float64)
        part = max(part, float(work[end:].sum() / max(work[:end].sum(), 1.0)))
    return max(0.0, float(seconds[end:].sum() - part * seconds[:end].sum()))
