"""The real scheduler over a modelled device: what an order does to cache, steps and time, without a model.

The policy, the ledgers and the page pool are the very functions that the engine runs, called in one compiled
loop; only the device is modelled (`engine.cost`) and the answers' lengths are given. Without a device it
gives the best hit rate that a KV memory allows (depth-first order, known lengths).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.cost import (
    NOMINAL,
    ModelShape,
    StepCost,
    pair_seconds,
    step_compute_seconds,
    step_cost,
    step_memory_seconds,
)
from engine.jit import njit
from engine.runtime import state
from engine.runtime.admission import admit, relieve
from engine.runtime.pacing import prepare
from engine.runtime.pages import N_EVICTED, held, make_pool
from engine.runtime.scheduler import build, retire

if TYPE_CHECKING:
    from engine.plan.policies import Plan
    from engine.plan.scan import Scan
    from engine.runtime.core import EngineSettings
    from engine.runtime.pages import PagePool
    from engine.runtime.revision import Reviser
    from engine.runtime.state import Float64, Int32, Int64, Requests, Slots, Work

SECONDS, COMPUTE_SECONDS, MEMORY_SECONDS, HELD_SECONDS, PEAK_HELD = range(5)
TRACE = ("tokens", "samples", "attended", "kv_tokens_read", "prefill_tokens", "decode_tokens", "running")
"""What is recorded of each step: the arguments of `engine.cost.step_seconds`, and three counts."""
_NO_COST = step_cost(ModelShape(1, 1, 1, 1, 1, 1), NOMINAL["cpu"])


@dataclass(frozen=True)
class SimulatedRun:
    """A simulated run.

    Attributes
    ----------
    steps, prefill_tokens, decode_tokens, retractions, recomputed_tokens, evicted_pages, peak_running
        Counts.
    hit_rate
        Prompt tokens reused over prompt tokens.
    seconds, compute_seconds, memory_seconds
        The modelled makespan, and the sums of the compute and of the memory times of all steps; 0 without a
        device.
    mean_occupancy, peak_occupancy
        Part of the KV memory that is held: mean over the modelled time, and peak.
    replans
        How often the waiting requests were ordered anew.
    trace
        int64 [steps, 7], the columns of `TRACE`, if it was recorded.
    """

    steps: int
    prefill_tokens: int
    decode_tokens: int
    hit_rate: float
    retractions: int
    recomputed_tokens: int
    evicted_pages: int
    peak_running: int
    seconds: float
    compute_seconds: float
    memory_seconds: float
    mean_occupancy: float
    peak_occupancy: float
    replans: int = 0
    trace: npt.NDArray[np.int64] | None = field(default=None, repr=False)


def simulate(
    plan: Plan,
    tokens: Int32,
    start: Int64,
    output: Int32,
    settings: EngineSettings,
    cost: StepCost | None = None,
    *,
    record: bool = False,
    reviser: Reviser | None = None,
) -> SimulatedRun:
    """Run all requests through the scheduler, each answer ending after ``output[i]`` tokens.

    Parameters
    ----------
    plan
        The order; its estimates are what admission goes by.
    tokens, start
        The prompts, flat: ``tokens[start[i]:start[i + 1]]``.
    output
        int32 [N]: the true output lengths, at least 1. The scheduler does not see them.
    cost
        The modelled device, the one that the plan was made for; None counts only.
    record
        Keep the composition of every step.
    reviser
        Estimates and orders anew as answers come in; None keeps the plan to the end.

    Raises
    ------
    RuntimeError
        If no request can go on: the memory does not hold the longest one.
    """
    size, slots_n = settings.page_size, settings.max_sequences
    longest = int((np.diff(start) + output).max(initial=1))
    pool = make_pool(settings.kv_tokens // size, size, slots_n)
    estimate = np.clip(plan.estimate, 1.0, None)
    # One limit for all, so that no true length shows through it.
    limit = np.full(len(output), int(max(output.max(initial=1), np.ceil(estimate.max(initial=1)))), np.int32)
    requests = state.make_requests(tokens, start, limit, estimate, np.ones(len(output), np.int8))
    slots = state.make_slots(slots_n, -(-longest // size) + 1, 1)
    work = state.make_work(settings.token_budget, slots_n)
    sums = np.zeros(5, np.float64)
    trace = np.zeros((1024 if record else 1, len(TRACE)), np.int64)
    ends = np.ascontiguousarray(output, np.int32)
    paced = settings.pacing and cost is not None
    scan, counts = plan.scan(), slots.counts
    never = np.array([1 << 62, 1 << 62])
    while True:
        pause = never if reviser is None else reviser.watch.at
        trace = _run(
            pool, requests, slots, scan, work, cost or _NO_COST, ends, paced, sums, trace, record, pause
        )
        if reviser is None or not reviser.due(slots) or counts[state.FINISHED] == len(output):
            break
        ended = (requests.generated == ends).astype(np.int8)
        scan = reviser.look(requests, slots, scan, ended, size, settings.token_budget)
    if counts[state.FINISHED] < len(output):
        raise RuntimeError(f"kv_tokens: {settings.kv_tokens} cannot hold the longest request")
    steps, pages = int(counts[state.STEP]), pool.free.shape[0]
    modelled = cost is not None
    return SimulatedRun(
        steps=steps,
        prefill_tokens=int(counts[state.PREFILL_TOKENS]),
        decode_tokens=int(counts[state.DECODE_TOKENS]),
        hit_rate=float(counts[state.HIT_TOKENS] / max(len(tokens), 1)),
        retractions=int(counts[state.RETRACTIONS]),
        recomputed_tokens=int(counts[state.RECOMPUTED_TOKENS]),
        evicted_pages=int(pool.counts[N_EVICTED]),
        peak_running=int(counts[state.PEAK_RUNNING]),
        seconds=float(sums[SECONDS]) if modelled else 0.0,
        compute_seconds=float(sums[COMPUTE_SECONDS]) if modelled else 0.0,
        memory_seconds=float(sums[MEMORY_SECONDS]) if modelled else 0.0,
        mean_occupancy=float(sums[HELD_SECONDS] / max(sums[SECONDS], 1e-300) / pages) if modelled else 0.0,
        peak_occupancy=float(sums[PEAK_HELD] / pages),
        replans=0 if reviser is None else reviser.replans,
        trace=trace[:steps] if record else None,
    )


@njit
def _run(
    pool: PagePool,
    requests: Requests,
    slots: Slots,
    scan: Scan,
    work: Work,
    cost: StepCost,
    ends: Int32,
    paced: bool,
    sums: Float64,
    trace: Int64,
    record: bool,
    pause: Int64,
) -> Int64:
    """Step until all have finished, nobody can go on, or `pause` is reached; return the trace, as it grew.

    `pause` are finished requests and generated tokens (`engine.plan.replan.Watch`).
    """
    budget = work.tokens.shape[0]
    retracted = np.zeros((slots.running.shape[0], 2), np.int32)
    done = np.zeros(slots.running.shape[0], np.int32)
    while slots.counts[state.FINISHED] < ends.shape[0]:
        relieve(pool, requests, slots, scan, cost, retracted)
        outlook, step_tokens = prepare(pool, requests, slots, scan, cost, budget, paced)
        admit(pool, requests, slots, scan, outlook, step_tokens)
        prefilled = slots.counts[state.PREFILL_TOKENS]
        tokens = build(pool, requests, slots, work, step_tokens, rows=False)
        if tokens == 0:
            break
        samples, attended = work.size[state.W_SAMPLES], work.size[state.W_ATTENDED]
        compute = step_compute_seconds(cost, float(tokens), float(samples), float(attended))
        memory = step_memory_seconds(cost, float(tokens), float(work.size[state.W_KV_DECODE]))
        seconds, pages = pair_seconds(cost, compute, memory), held(pool)
        sums[SECONDS] += seconds
        sums[COMPUTE_SECONDS] += compute
        sums[MEMORY_SECONDS] += memory
        sums[HELD_SECONDS] += pages * seconds
        sums[PEAK_HELD] = max(sums[PEAK_HELD], pages)
        if record:
            step = slots.counts[state.STEP] - 1
            if step == trace.shape[0]:
                grown = np.zeros((2 * step, trace.shape[1]), np.int64)
                grown[:step] = trace
                trace = grown
            trace[step, 0], trace[step, 1], trace[step, 2] = tokens, samples, attended
            trace[step, 3] = work.size[state.W_KV_DECODE]
            trace[step, 4] = slots.counts[state.PREFILL_TOKENS] - prefilled
            trace[step, 5] = tokens - trace[step, 4]
            trace[step, 6] = slots.counts[state.RUNNING]
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
    return trace
