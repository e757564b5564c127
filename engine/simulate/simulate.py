"""The real scheduler over a modelled device: what an order does to cache, steps and time, without a model.

The policy, the ledgers and the page pool are the very functions that the engine runs, called in one compiled
loop (`engine.simulate.steps`); only the device is modelled (`engine.cost.step`) and the answers' lengths are
given. Without a device it gives the best hit rate that a KV memory allows (depth-first order, known lengths).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.cost.step import NOMINAL, ModelShape, StepCost, step_cost
from engine.runtime import state
from engine.runtime.kv.pages import N_EVICTED, make_pool
from engine.runtime.kv.shared_pages import make_groups, make_room
from engine.runtime.schedule.forecast import RULES
from engine.simulate.steps import (
    COMPUTE_SECONDS,
    HELD_SECONDS,
    JUMPED,
    MEMORY_SECONDS,
    PEAK_HELD,
    SECONDS,
    SUMS,
    TRACE,
    take_steps,
)

if TYPE_CHECKING:
    from engine.arrays import Float64, Int32, Int64
    from engine.plan.policies import Plan
    from engine.plan.scan import Scan
    from engine.runtime.core import EngineSettings
    from engine.runtime.schedule.revision import Reviser

_NO_COST = step_cost(ModelShape(1, 1, 1, 1, 1, 1), NOMINAL["cpu"])


@dataclass(frozen=True)
class SimulatedRun:
    """A simulated run.

    Attributes
    ----------
    steps, prefill_tokens, decode_tokens, preemptions, recomputed_tokens, evicted_pages, peak_running
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
    jumped
        How many of the steps were advanced together with others.
    trace
        int64 [steps, 7], the columns of `TRACE`, if it was recorded. KV read is what the device moves: less
        where it reads shared pages for several sequences together (`StepCost.shared_read`).
    """

    steps: int
    prefill_tokens: int
    decode_tokens: int
    hit_rate: float
    preemptions: int
    recomputed_tokens: int
    evicted_pages: int
    peak_running: int
    seconds: float
    compute_seconds: float
    memory_seconds: float
    mean_occupancy: float
    peak_occupancy: float
    replans: int = 0
    jumped: int = 0
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
    run = Simulation(plan.scan(), tokens, start, output, plan.estimate, settings, cost, record=record)
    never = np.array([1 << 62, 1 << 62])
    while True:
        full = run.advance(never if reviser is None else reviser.watch.at)
        if reviser is not None and reviser.due(run.slots) and not run.complete:
            ended = (run.requests.generated == run.ends).astype(np.int8)
            run.scan = reviser.look(
                run.requests, run.slots, run.scan, ended, settings.page_size, settings.token_budget
            )
        elif not full:
            break
    if not run.complete:
        raise RuntimeError(f"kv_tokens: {settings.kv_tokens} cannot hold the longest request")
    return run.result(0 if reviser is None else reviser.replans)


class Simulation:
    """A simulated engine: its state, which goes on from where it was paused.

    Parameters are those of `simulate`; `scan` has the requests that it is to answer, all N or some of them,
    and `estimate` (float64 [N]) what admission goes by.

    Attributes
    ----------
    scan
        What waits. Another one may take its place at a pause (`engine.plan.scan.take_over`).
    requests, slots
        State of the N requests, and of the running ones.
    ends
        int32 [N]: the true output lengths.
    """

    def __init__(
        self,
        scan: Scan,
        tokens: Int32,
        start: Int64,
        output: Int32,
        estimate: Float64,
        settings: EngineSettings,
        cost: StepCost | None = None,
        *,
        record: bool = False,
    ) -> None:
        size, slots_n = settings.page_size, settings.max_sequences
        longest = int((np.diff(start) + output).max(initial=1))
        self.scan = scan
        self.ends = np.ascontiguousarray(output, np.int32)
        estimate = np.clip(estimate, 1.0, None)
        # One limit for all, so that no true length shows through it.
        most = int(max(output.max(initial=1), np.ceil(estimate.max(initial=1))))
        limit = np.full(len(output), most, np.int32)
        self.requests = state.make_requests(tokens, start, limit, estimate, np.ones(len(output), np.int8))
        self.slots = state.make_slots(slots_n, -(-longest // size) + 1, 1)
        self._pool = make_pool(settings.kv_tokens // size, size, slots_n)
        self._cost, self._rule = cost, RULES[settings.admission]
        self._paced = settings.pacing and cost is not None
        self._work = state.make_work(settings.token_budget, slots_n)
        self._sums = np.zeros(SUMS, np.float64)
        self._trace = np.zeros((1024 if record else 0, len(TRACE)), np.int64)
        preempted = np.zeros((slots_n, 2), np.int32)
        room = np.zeros((2, max(slots_n, size + 1)), np.int32)
        self._room = preempted, room, make_room(slots_n, self._pool.ref.shape[0]), make_groups(slots_n)

    def advance(self, pause: Int64) -> bool:
        """Step until all have finished, nobody can go on, the record is full, or `pause` is reached.

        Parameters
        ----------
        pause
            int64 [2]: finished requests and generated tokens, whichever comes first.

        Returns
        -------
        bool
            Whether the record was full: there is room again.
        """
        take_steps(
            self._pool,
            self.requests,
            self.slots,
            self.scan,
            self._work,
            self._cost or _NO_COST,
            self.ends,
            self._paced,
            self._rule,
            self._sums,
            self._trace,
            pause,
            *self._room,
        )
        full = bool(len(self._trace) and self.slots.counts[state.STEP] == len(self._trace))
        if full:
            self._trace = np.concatenate((self._trace, np.zeros_like(self._trace)))
        return full

    @property
    def complete(self) -> bool:
        """Whether all N requests are answered."""
        return bool(self.slots.counts[state.FINISHED] == len(self.ends))

    @property
    def seconds(self) -> float:
        """Modelled seconds so far; 0 without a device."""
        return float(self._sums[SECONDS]) if self._cost is not None else 0.0

    def result(self, replans: int = 0) -> SimulatedRun:
        """Return the run so far."""
        counts, sums, steps = self.slots.counts, self._sums, int(self.slots.counts[state.STEP])
        modelled, pages = self._cost is not None, self._pool.free.shape[0]
        return SimulatedRun(
            steps=steps,
            prefill_tokens=int(counts[state.PREFILL_TOKENS]),
            decode_tokens=int(counts[state.DECODE_TOKENS]),
            hit_rate=float(counts[state.HIT_TOKENS] / max(len(self.requests.tokens), 1)),
            preemptions=int(counts[state.PREEMPTIONS]),
            recomputed_tokens=int(counts[state.RECOMPUTED_TOKENS]),
            evicted_pages=int(self._pool.counts[N_EVICTED]),
            peak_running=int(counts[state.PEAK_RUNNING]),
            seconds=self.seconds,
            compute_seconds=float(sums[COMPUTE_SECONDS]) if modelled else 0.0,
            memory_seconds=float(sums[MEMORY_SECONDS]) if modelled else 0.0,
            mean_occupancy=float(sums[HELD_SECONDS] / max(sums[SECONDS], 1e-300) / pages)
            if modelled
            else 0.0,
            peak_occupancy=float(sums[PEAK_HELD] / pages),
            replans=replans,
            jumped=int(sums[JUMPED]),
            trace=self._trace[:steps] if len(self._trace) else None,
        )
