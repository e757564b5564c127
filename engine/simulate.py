"""The real scheduler without a model: what an order does to the cache, when answer lengths are known.

It gives the best hit rate that a given KV memory allows (depth-first order, known lengths), beside which a
measured hit rate is judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.runtime import admission, scheduler, state
from engine.runtime.pages import N_EVICTED, make_pool

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.plan.policies import Plan
    from engine.runtime.core import EngineSettings


@dataclass(frozen=True)
class SimulatedRun:
    """Counts of a simulated run; `hit_rate` is prompt tokens reused over prompt tokens."""

    steps: int
    prefill_tokens: int
    decode_tokens: int
    hit_rate: float
    retractions: int
    evicted_pages: int


def simulate(
    plan: Plan,
    tokens: npt.NDArray[np.int32],
    start: npt.NDArray[np.int64],
    output: npt.NDArray[np.int32],
    settings: EngineSettings,
) -> SimulatedRun:
    """Run all requests through the scheduler, each answer ending after ``output[i]`` tokens.

    Parameters
    ----------
    plan
        The order; its estimates are what admission goes by.
    tokens, start
        The prompts, flat: ``tokens[start[i]:start[i + 1]]``.
    output
        int32 [N]: the true output lengths, at least 1.

    Raises
    ------
    RuntimeError
        If no request can go on: the memory does not hold the longest one.
    """
    size, slots_n = settings.page_size, settings.max_sequences
    longest = int((np.diff(start) + output).max(initial=1))
    pool = make_pool(settings.kv_tokens // size, size)
    estimate = np.clip(plan.estimate, 1.0, None)
    requests = state.make_requests(tokens, start, output, estimate, np.ones(len(output), np.int8))
    slots = state.make_slots(slots_n, -(-longest // size) + 1, int(output.max(initial=1)))
    scan, work = plan.scan(), state.make_work(settings.token_budget, slots_n)
    retracted, reasons = np.zeros((slots_n, 2), np.int32), np.zeros(slots_n, np.int8)
    nothing = np.zeros(0, np.int64)
    while slots.counts[state.FINISHED] < len(output):
        admission.relieve(pool, requests, slots, scan, retracted)
        admission.admit(pool, requests, slots, scan, settings.token_budget)
        if not scheduler.build(pool, requests, slots, work, settings.token_budget):
            raise RuntimeError(f"kv_tokens: {settings.kv_tokens} cannot hold the longest request")
        samples = int(work.size[state.W_SAMPLES])
        scheduler.commit(requests, slots, work, np.zeros(samples, np.int64), nothing, reasons)
        done = work.sample_slots[:samples][reasons[:samples] != state.UNFINISHED]
        scheduler.retire(pool, slots, scan, np.ascontiguousarray(done))
    counts = slots.counts
    return SimulatedRun(
        steps=int(counts[state.STEP]),
        prefill_tokens=int(counts[state.PREFILL_TOKENS]),
        decode_tokens=int(counts[state.DECODE_TOKENS]),
        hit_rate=float(counts[state.HIT_TOKENS] / max(len(tokens), 1)),
        retractions=int(counts[state.RETRACTIONS]),
        evicted_pages=int(pool.counts[N_EVICTED]),
    )
