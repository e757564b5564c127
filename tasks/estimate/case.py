"""One case: requests on a machine under certain assumptions, and what each way of running them would take.

The scheduler is the real one, the device is modelled (`engine.simulate.simulate`, `engine.simulate.clock`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.cost.optimum import COMPUTE, LONGEST, MEMORY, optimum
from engine.cost.step import pair_seconds, step_cost
from engine.plan.policies import plan_tree
from engine.plan.tree import cached_tokens
from engine.runtime.settings import EngineSettings
from engine.simulate.clock import drain_seconds, step_times
from engine.simulate.simulate import SimulatedRun, simulate
from tasks.estimate.machine import PAGE_SIZE

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.cost.step import DeviceProfile, StepCost
    from engine.plan.policies import Plan
    from tasks.estimate.machine import Machine
    from tasks.estimate.requests import Requests

    Float64 = npt.NDArray[np.float64]

MEANS: Final = "means"
EXACT: Final = "exact"
LENGTHS: Final = {
    MEANS: "the mean of its workload at such a prompt length, as for a night whose answers are not known yet",
    EXACT: "its own, as if answers were known",
}
"""What the scheduler takes for the length of a request's answer."""
START_BUDGET: Final = 2048
OURS: Final = "blend"
"""The order that Nightblend runs, the only one that is admitted from both ends."""


@dataclass(frozen=True)
class Way:
    """A way to run a night.

    Attributes
    ----------
    order
        A key of `engine.choices.POLICIES`.
    overlap
        Whether compute and memory work run side by side.
    budget, paced
        Most tokens per step, and whether the scheduler chooses fewer by itself.
    """

    order: str
    overlap: bool
    budget: int
    paced: bool = False


@dataclass(frozen=True)
class Limits:
    """What no schedule can beat, in seconds.

    Attributes
    ----------
    compute, kv, memory, longest
        All arithmetic; all KV reads; these with the weights of the fewest steps; with a step for each token
        of the longest answer.
    practical
        The largest of them, and of compute and KV reads paired.
    limit
        Which of compute, memory and longest is the largest.
    """

    compute: float
    kv: float
    memory: float
    longest: float
    practical: float
    limit: str


class Case:
    """Requests on a machine; plans and runs are made when first needed.

    Parameters
    ----------
    lengths
        A key of `LENGTHS`.
    """

    def __init__(self, requests: Requests, machine: Machine, lengths: str = MEANS) -> None:
        self.requests, self.machine = requests, machine
        self._lengths = lengths
        self._plans: dict[str, Plan] = {}
        self._runs: dict[tuple[str, int, bool], SimulatedRun] = {}
        self._seconds: dict[Way, float] = {}
        self._limits: dict[bool, Limits] = {}

    def other(self, *, output_factor: float = 1.0, lengths: str | None = None) -> Case:
        """Return the same requests under other assumptions; their answers are so many times as long."""
        requests = self.requests
        if output_factor != 1.0:
            output = np.maximum(np.rint(requests.output * output_factor), 1).astype(np.int32)
            tree = requests.tree
            requests = replace(requests, output=output)
            requests.__dict__["tree"] = tree  # the prompts are the same
        return Case(requests, self.machine, lengths or self._lengths)

    def part(self, chosen: npt.NDArray[np.int64]) -> Case:
        """Return some of the requests under the same assumptions."""
        return Case(self.requests.take(chosen), self.machine, self._lengths)

    @cached_property
    def estimate(self) -> Float64:
        """float64 [N], tokens: the lengths that the scheduler goes by."""
        output = self.requests.output.astype(np.float64)
        if self._lengths == EXACT:
            return output
        kinds = self.requests.kinds
        total = np.bincount(kinds, output)
        return np.asarray((total / np.maximum(np.bincount(kinds), 1))[kinds])

    def plan(self, order: str) -> Plan:
        """Return the plan of an order; the one of another order if both admit the same way."""
        if order not in self._plans:
            plan = plan_tree(
                order,
                self.requests.tree,
                self.estimate,
                self.machine.shape,
                self.machine.device,
                group=self.requests.workload,
            )
            # Workloads in turn are depth-first where there is one workload: that is not simulated twice.
            self._plans[order] = next((p for p in self._plans.values() if _same_scan(p, plan)), plan)
        return self._plans[order]

    def run(self, way: Way) -> SimulatedRun:
        """Return the simulated run of a way, with its trace; its own seconds know nothing of overlap."""
        plan = self.plan(way.order)
        # What steps are made of does not depend on how compute and memory work get on together.
        schedule = plan.policy, way.budget, way.paced
        if schedule not in self._runs:
            requests, machine = self.requests, self.machine
            settings = EngineSettings(
                kv_tokens=machine.kv_tokens,
                page_size=PAGE_SIZE,
                token_budget=way.budget,
                max_sequences=min(machine.sequences, way.budget),
                pacing=way.paced,
            )
            self._runs[schedule] = simulate(
                plan,
                requests.tokens,
                requests.start,
                requests.output,
                settings,
                step_cost(machine.shape, machine.device),
                record=True,
            )
        return self._runs[schedule]

    def with_interference(self, g: float) -> Case:
        """Return the same runs on a device of this interference; nothing is planned or simulated again."""
        found = Case(self.requests, replace(self.machine, interference=(g, g, g)), self._lengths)
        found._plans, found._runs = self._plans, self._runs
        return found

    def cost(self, way: Way, device: DeviceProfile | None = None) -> StepCost:
        """Return the modelled device of a way, at its central interference; None is the machine's own."""
        device = device or self.machine.device
        if not way.overlap:
            return step_cost(self.machine.shape, device, overlap=False)
        bounds = self.machine.interference
        central = None if bounds is None else bounds[1]
        return step_cost(self.machine.shape, device, overlap=True, interference=central)

    def times(self, way: Way, device: DeviceProfile | None = None) -> Float64:
        """Return the seconds of each step, on another device than the plan was made for if one is given."""
        trace = self.run(way).trace
        if trace is None:
            raise RuntimeError("the run was not recorded")
        cost = self.cost(way, device)
        return step_times(cost, trace, overlap=way.overlap, fitted=self.machine.fitted)

    def seconds(self, way: Way) -> float:
        """Return the modelled seconds of a way."""
        if way not in self._seconds:
            self._seconds[way] = float(self.times(way).sum())
        return self._seconds[way]

    def tail(self, way: Way) -> float:
        """Return the seconds that are lost in the drain (`engine.simulate.clock.drain_seconds`)."""
        trace = self.run(way).trace
        return 0.0 if trace is None else drain_seconds(self.times(way), trace)

    def limits(self, *, overlap: bool) -> Limits:
        """Return what no schedule can beat on the modelled device."""
        if overlap not in self._limits:
            self._limits[overlap] = self._bounds(overlap=overlap)
        return self._limits[overlap]

    def _bounds(self, *, overlap: bool) -> Limits:
        requests = self.requests
        cost = self.cost(Way("dfs", overlap, START_BUDGET))
        found = optimum(
            cost,
            np.diff(requests.start).astype(np.float64),
            cached_tokens(requests.tree).astype(np.float64),
            requests.output.astype(np.float64),
            self.machine.kv_tokens,
        )
        # GEMMs hide their own weight reads (`engine.simulate.clock`): only KV reads are paired with compute.
        paired = found.practical if self.machine.fitted else pair_seconds(cost, found.compute, found.kv_read)
        limits = {COMPUTE: found.compute, MEMORY: found.memory, LONGEST: found.longest}
        return Limits(
            found.compute,
            found.kv_read,
            found.memory,
            found.longest,
            max(paired, *limits.values()),
            max(limits, key=limits.__getitem__),
        )

    def fixed(self, order: str, *, overlap: bool, start: int = START_BUDGET) -> Way:
        """Return the best fixed budget of an order.

        The time is taken to fall and then to rise with the budget, so the search, which begins at `start`,
        stops at the first rise.
        """
        budgets = self.machine.budgets
        at = max((i for i, b in enumerate(budgets) if b <= start), default=0)
        ways = [Way(order, overlap, budget) for budget in budgets]
        for step in (1, -1):
            while 0 <= at + step < len(ways) and self.seconds(ways[at + step]) < self.seconds(ways[at]):
                at += step
        return ways[at]

    def tuned(self, order: str, *, overlap: bool) -> Way:
        """Return the best fixed budget of an order, or pacing where work overlaps and it is better."""
        fixed = self.fixed(order, overlap=overlap)
        if not overlap:
            return fixed
        paced = Way(order, overlap, self.machine.budgets[-1], paced=True)
        return min(fixed, paced, key=self.seconds)


def _same_scan(one: Plan, other: Plan) -> bool:
    """Tell whether two plans of the same requests and lengths admit from one end and in one order."""
    if OURS in {one.policy, other.policy}:
        return one.policy == other.policy
    return np.array_equal(one.order, other.order) and np.array_equal(one.linked, other.linked)
