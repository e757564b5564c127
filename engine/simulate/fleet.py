"""Several simulated engines that share the requests of a night, and take work from each other.

Every engine has its whole share in hand from the start, so that it can blend all of it: handed out in pieces
over time, the memory-heavy requests of the later ones find nothing to run beside (a share in halves, quarters
and so on took 1.3 to 1.7 times as long). One that has nothing left to begin takes part of what waits in the
one that will be busy longest. They go on in the order of their clocks, the one that is furthest behind first,
so that what waits is what waits at that time, but for the few answers that it takes to look again.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.plan.scan import make_scan, take_over, waiting_requests, wake
from engine.runtime import state
from engine.simulate.simulate import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.arrays import Int32, Int64
    from engine.cost.step import StepCost
    from engine.plan.policies import Plan
    from engine.runtime.settings import EngineSettings
    from engine.simulate.simulate import SimulatedRun

LOOKS: Final = 200
"""About so often it is looked at what waits in an engine, over its share of the requests."""


@dataclass(frozen=True)
class FleetRun:
    """A simulated night of R engines.

    Attributes
    ----------
    runs
        What each of them did; hit rates are over the prompts of all requests.
    requests
        int64 [R]: how many each has answered.
    moves, moved
        How often one took from another, and how many requests.
    """

    runs: tuple[SimulatedRun, ...]
    requests: Int64
    moves: int
    moved: int

    @property
    def seconds(self) -> float:
        """When the last one ends."""
        return max(run.seconds for run in self.runs)

    @property
    def hit_rate(self) -> float:
        """Prompt tokens reused over prompt tokens."""
        return sum(run.hit_rate for run in self.runs)

    @property
    def idle(self) -> float:
        """Part of the engines' time to the end of the last one in which they had nothing to do."""
        return 1.0 - float(np.mean([run.seconds for run in self.runs])) / max(self.seconds, 1e-300)


def simulate_fleet(
    shares: Sequence[Int32],
    plan_of: Callable[[Int32], Plan],
    part_of: Callable[[Int32], Int32] | None,
    tokens: Int32,
    start: Int64,
    output: Int32,
    settings: EngineSettings,
    costs: Sequence[StepCost],
) -> FleetRun:
    """Run all requests through the schedulers of R engines, each answer ending after ``output[i]`` tokens.

    Parameters
    ----------
    shares
        For each engine the requests that it begins with, int32.
    plan_of
        Returns the plan of some requests, its figures per request for all N.
    part_of
        Returns which of an engine's waiting requests another one takes (`engine.plan.moves.part_to_move`);
        None: nothing moves.
    tokens, start, output, settings
        As in `engine.simulate.simulate.simulate`; each engine has these settings.
    costs
        The device of each engine.

    Raises
    ------
    RuntimeError
        If requests are left: the memory does not hold the longest one, or no share has them.
    """
    fleet = [_Engine(plan_of, tokens, start, output, settings, cost) for cost in costs]
    for engine, share in zip(fleet, shares, strict=True):
        engine.give(share)
    stride = max(1, len(output) // len(fleet) // LOOKS)
    clocks = [(0.0, number) for number in range(len(fleet))]
    moves = moved = 0
    while clocks:
        _, number = heapq.heappop(clocks)
        engine = fleet[number]
        if part_of is not None and not engine.waits:
            victim = max(fleet, key=lambda one: one.outlook)
            # Fewer than run in it wait for a moment only.
            if victim.waits > victim.running:
                part = part_of(waiting_requests(victim.scan))
                victim.take_back(part)
                engine.give(part)
                moves, moved = moves + 1, moved + len(part)
        if engine.answer(stride):
            heapq.heappush(clocks, (engine.seconds, number))
    finished = np.array([engine.finished for engine in fleet])
    if finished.sum() < len(output):
        raise RuntimeError(f"{len(output) - finished.sum()} requests were not answered")
    return FleetRun(tuple(engine.result() for engine in fleet), finished, moves, moved)


class _Engine(Simulation):
    """One of them, with the requests that it has been given so far."""

    def __init__(
        self,
        plan_of: Callable[[Int32], Plan],
        tokens: Int32,
        start: Int64,
        output: Int32,
        settings: EngineSettings,
        cost: StepCost,
    ) -> None:
        nothing = np.zeros(len(output))
        scan = make_scan(np.zeros(0, np.int32), nothing, nothing, nothing, two_sided=True)
        super().__init__(scan, tokens, start, output, nothing, settings, cost)
        self._plan_of = plan_of

    @property
    def finished(self) -> int:
        return int(self.slots.counts[state.FINISHED])

    @property
    def running(self) -> int:
        return int(self.slots.counts[state.RUNNING])

    @property
    def waits(self) -> int:
        """How many requests have not been begun."""
        return len(waiting_requests(self.scan))

    @property
    def outlook(self) -> float:
        """About how many seconds it takes to what waits, if it goes on as until now."""
        return self.waits * self.seconds / max(self.finished, 1)

    def give(self, requests: Int32) -> None:
        """Add requests to those that wait."""
        self._order(np.concatenate((waiting_requests(self.scan), requests)))

    def take_back(self, requests: Int32) -> None:
        """Take requests away from those that wait."""
        self._order(np.setdiff1d(waiting_requests(self.scan), requests))

    def _order(self, waiting: Int32) -> None:
        plan, old = self._plan_of(waiting), self.scan
        self.requests.estimate[waiting] = np.clip(plan.estimate[waiting], 1.0, None)
        self.scan = plan.scan()
        take_over(self.scan, old)
        wake(self.scan)

    def answer(self, stride: int) -> bool:
        """Answer `stride` more requests, or all that there are; return whether there were any."""
        before = self.finished
        self.advance(np.array([before + stride, 1 << 62]))
        return self.finished > before
