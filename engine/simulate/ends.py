"""When each answer of a simulated night ends: the simulator, looked at as its answers come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.runtime.state import FINISHED, STEP
from engine.simulate.clock import step_times
from engine.simulate.simulate import simulate

if TYPE_CHECKING:
    from engine.arrays import Float64, Int8, Int32, Int64
    from engine.cost.step import StepCost
    from engine.plan.policies import Plan
    from engine.plan.scan import Scan
    from engine.runtime.settings import EngineSettings
    from engine.runtime.state import Requests, Slots
    from engine.simulate.simulate import SimulatedRun

LOOKS: Final = 256
"""About so often the answers are looked at: more often only costs time."""


@dataclass
class _Next:
    """When the simulator stops for the next look (`engine.plan.replan.Watch`)."""

    at: Int64


class _Observer:
    """Stands in the place of what orders anew; leaves order and estimates as they are."""

    replans = 0

    def __init__(self, requests: int, looks: int) -> None:
        self._stride = max(1, requests // looks)
        self.watch = _Next(np.array([self._stride, 1 << 62]))
        self.step: Int64 = np.full(requests, -1, np.int64)

    def due(self, slots: Slots) -> bool:
        return bool(slots.counts[FINISHED] >= self.watch.at[0])

    def look(
        self, _requests: Requests, slots: Slots, scan: Scan, ended: Int8, _page_size: int, _budget: int
    ) -> Scan:
        self.step[(ended == 1) & (self.step < 0)] = slots.counts[STEP]
        self.watch.at = np.array([slots.counts[FINISHED] + self._stride, 1 << 62])
        return scan


def simulate_ends(
    plan: Plan,
    tokens: Int32,
    start: Int64,
    output: Int32,
    settings: EngineSettings,
    cost: StepCost,
    *,
    looks: int = LOOKS,
) -> tuple[SimulatedRun, Float64]:
    """Simulate a night, and return when each answer ends, float64 [N], modelled seconds from its begin.

    The arguments are those of `engine.simulate.simulate.simulate`. With more than `looks` requests an end is
    that of the look at which it is seen: later by a few answers at most.
    """
    observer: Any = _Observer(len(output), looks)
    run = simulate(plan, tokens, start, output, settings, cost, record=True, reviser=observer)
    if run.trace is None:
        raise RuntimeError("nothing was recorded")
    took = step_times(cost, run.trace, overlap=True, fitted=True)
    passed = np.concatenate(([0.0], np.cumsum(took)))
    last = observer.step < 0
    return run, np.where(last, run.seconds, passed[np.where(last, 0, observer.step)])
