"""The search for a schedule: candidates are simulated on samples, the better ones on larger ones.

A sample is of groups of requests that begin alike, kept whole, of all kinds in proportion. Each round takes
a part of the budget; who is left after it is tried on the largest sample that the next part allows, on all
requests where it allows that. The budget is of simulated work, not of time, so the same requests and device
give the same choice wherever it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.cost.step import step_cost
from engine.plan.policies import plan_tree
from engine.plan.tree import build_tree
from engine.simulate.clock import drain_seconds, step_times
from engine.simulate.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.arrays import Bool, Float64, Int32, Int64
    from engine.cost.step import DeviceProfile, ModelShape, StepCost
    from engine.plan.policies import Plan
    from engine.plan.tree import PrefixTree
    from engine.runtime.settings import EngineSettings
    from engine.simulate.schedules import Schedule

GROUP: Final = 32
"""Requests that are sampled together at most: single ones would halve the sharing."""
ROUNDS: Final = 3
"""Samples, each larger than the one before. Each takes the same part of the budget, until all that are left
can be simulated whole."""
KEPT: Final = (64, 6, 2)
"""Most candidates that are tried in each of them."""
SHARE: Final = 0.01
"""Part of the expected time on the device that may be spent."""
MOST_SECONDS: Final = 5.0
"""Most that may be spent, in seconds of one core."""
LEAST: Final = 128
"""Requests without which a sample says nothing: with fewer in reach nothing is searched."""
PER_STEP: Final = 1.5e-5
PER_DECODE: Final = 3.0e-8
PER_PREFILL: Final = 4.0e-8
"""Seconds of a core that a simulated step takes, and each token in it: what turns a budget into work."""


@dataclass(frozen=True)
class Work:
    """Everything about the requests that a schedule is searched for.

    Attributes
    ----------
    tree
        Of the prompts ``tokens[start[i]:start[i + 1]]``.
    estimate
        float64 [N], tokens: expected answer lengths, taken as true.
    group, priority, window
        int64 [N] or None: see `engine.plan.policies.make_plan`.
    """

    tree: PrefixTree
    tokens: Int32
    start: Int64
    estimate: Float64
    group: Int64 | None = None
    priority: Int64 | None = None
    window: Int64 | None = None

    def take(self, chosen: Int64) -> Work:
        """Return some of the requests, int64 [n], rising."""
        lengths = np.diff(self.start)[chosen]
        start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        tokens = np.empty(int(start[-1]), np.int32)
        for place, i in enumerate(chosen.tolist()):
            tokens[start[place] : start[place + 1]] = self.tokens[self.start[i] : self.start[i + 1]]
        own = [None if one is None else one[chosen] for one in (self.group, self.priority, self.window)]
        return Work(build_tree(tokens, start), tokens, start, self.estimate[chosen], *own)

    def __len__(self) -> int:
        return int(self.estimate.shape[0])


@dataclass(frozen=True)
class Trial:
    """A candidate on the largest sample that it was tried on.

    Attributes
    ----------
    seconds
        What it would take for all requests: of the simulated run where it was of all, else projected.
    requests
        How many were simulated.
    """

    schedule: Schedule
    seconds: float
    requests: int


@dataclass(frozen=True)
class Choice:
    """What a search found.

    Attributes
    ----------
    schedule
        The one to take.
    why
        In a sentence.
    trials
        Of the candidates, best first; empty where nothing was searched.
    requests
        All of them.
    spent, budget
        Simulated work, in seconds of a core.
    """

    schedule: Schedule
    why: str
    trials: tuple[Trial, ...]
    requests: int
    spent: float
    budget: float

    @property
    def runner_up(self) -> Trial | None:
        """The best candidate beside the one that was taken."""
        return self.trials[1] if len(self.trials) > 1 else None

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it."""

        def of(trial: Trial) -> dict[str, Any]:
            told = {**trial.schedule.told(), "text": str(trial.schedule)}
            return {**told, "seconds": trial.seconds, "requests": trial.requests}

        return {
            "schedule": self.schedule.told(),
            "text": str(self.schedule),
            "why": self.why,
            "trials": [of(trial) for trial in self.trials],
            "requests": self.requests,
            "spent_seconds": self.spent,
            "budget_seconds": self.budget,
        }


def search(
    work: Work,
    candidates: Sequence[Schedule],
    shape: ModelShape,
    device: DeviceProfile,
    most: EngineSettings,
    *,
    seed: int = 0,
    budget: float | None = None,
    overlap: bool | None = None,
    interference: float | None = None,
) -> Choice:
    """Return the candidate that takes the least time for the requests.

    Parameters
    ----------
    candidates
        The first one is taken where nothing can be searched.
    most
        Memory and largest sizes of the engine.
    budget
        Seconds of a core that may be spent; None is `SHARE` of the expected time, at most `MOST_SECONDS`.
    overlap, interference
        Of the modelled device (`engine.cost.step.step_cost`); None is what its profile says.
    """
    cost = step_cost(shape, device, overlap=overlap, interference=interference)
    if len(candidates) < 2 or len(work) < LEAST:
        why = "the only one for this engine" if len(work) >= LEAST else f"fewer than {LEAST} requests"
        return Choice(candidates[0], f"Not searched: {why}.", (), len(work), 0.0, 0.0)
    groups, load = _groups(work, shape, device)
    expected = _seconds(load, serial=cost.interference >= 1.0)
    if budget is None:
        budget = min(SHARE * expected, MOST_SECONDS)
    left, spent = list(candidates), 0.0
    trials: dict[Schedule, Trial] = {}
    per_request = _work_of(0.0, float(work.estimate.sum()), float(work.start[-1])) / len(work)
    # Until steps have been counted: as many as the answers would take that run a hundred at a time.
    per_request += PER_STEP * float(work.estimate.mean()) / 100.0
    size = 0
    for number in range(ROUNDS):
        # As many as fit are simulated whole, the most promising ones, if that leaves a choice.
        fit = int((budget - spent) / (per_request * len(work)))
        if fit < min(2 if trials else len(left), len(left)):
            left = left[: KEPT[number]]
            part = (budget - spent) / (ROUNDS - number) / len(left)
            reach = int(min(part / per_request, len(work) - 1))
        else:
            left, reach = left[:fit], len(work)
        if reach < LEAST and not trials:
            why = f"{SHARE:.0%} of the {expected:,.0f} s that they are expected to take simulates too few"
            return Choice(candidates[0], f"Not searched: {why}.", (), len(work), 0.0, budget)
        if reach <= size or len(left) < 2:
            break
        chosen = np.arange(len(work)) if reach == len(work) else sample(groups, reach, seed)
        sampled = work if len(chosen) == len(work) else work.take(chosen)
        size, took = len(chosen), 0.0
        serial = cost.interference >= 1.0
        plans = {policy: plan_of(policy, sampled, shape, device, seed) for policy in {s.policy for s in left}}
        times = 1.0 if size == len(work) else expected / _seconds(load[:, chosen], serial=serial)
        for schedule in left:
            plan = schedule.of(plans[schedule.policy])
            seconds, cpu = _try(plan, sampled, cost, schedule.settings(most), times)
            trials[schedule] = Trial(schedule, seconds, size)
            took += cpu
        spent += took
        per_request = took / len(left) / size
        left = _in_turn(sorted(left, key=lambda one: trials[one].seconds))
        if size == len(work):
            break
    # Those that came further are ahead of those that did not, whatever their samples said.
    ranked = tuple(sorted(trials.values(), key=lambda trial: (-trial.requests, trial.seconds)))
    return Choice(ranked[0].schedule, _why(ranked, len(work)), ranked, len(work), spent, budget)


def _in_turn(ranked: Sequence[Schedule]) -> list[Schedule]:
    """Return candidates so that the best of each policy come first, then the second best, and so on.

    A sample ranks the steps of one order well. Against each other it flatters orders that reuse a prefix
    late: all the prefixes of a small sample find room in the cache.
    """
    place: dict[str, int] = {}
    key = {}
    for number, one in enumerate(ranked):
        place[one.policy] = place.get(one.policy, -1) + 1
        key[one] = place[one.policy], number
    return sorted(ranked, key=key.__getitem__)


def _why(ranked: Sequence[Trial], requests: int) -> str:
    best = ranked[0]
    among = f"all {requests:,}" if best.requests == requests else f"{best.requests:,} of {requests:,}"
    found = f"The fastest of {len(ranked)} candidates, simulated on {among} requests"
    if len(ranked) < 2:
        return f"{found}."
    second = ranked[1]
    return (
        f"{found}: about {best.seconds:,.0f} s. The next best ({second.schedule}) would have taken "
        f"{second.seconds / best.seconds - 1:.1%} more."
    )


def _work_of(steps: float, decode: float, prefill: float) -> float:
    return PER_STEP * steps + PER_DECODE * decode + PER_PREFILL * prefill


def plan_of(policy: str, work: Work, shape: ModelShape, device: DeviceProfile, seed: int) -> Plan:
    """Return the order of `policy` for `work`, as `engine.plan.policies.plan_tree` makes it."""
    return plan_tree(
        policy,
        work.tree,
        work.estimate,
        shape,
        device,
        seed,
        group=work.group,
        priority=work.priority,
        window=work.window,
    )


def _try(
    plan: Plan, work: Work, cost: StepCost, settings: EngineSettings, times: float
) -> tuple[float, float]:
    """Return the seconds that `times` such samples would take, and the simulated work."""
    output = np.maximum(np.rint(work.estimate), 1).astype(np.int32)
    done = simulate(plan, work.tokens, work.start, output, settings, cost, record=times != 1.0)
    seconds = done.seconds
    if done.trace is not None:
        # The end, in which the longest answers run alone, comes once, however many requests there are.
        drain = drain_seconds(step_times(cost, done.trace, overlap=True, fitted=True), done.trace)
        seconds = (seconds - drain) * times + drain
    return seconds, _work_of(done.steps - done.jumped, done.decode_tokens, done.prefill_tokens)


def _seconds(load: Float64, *, serial: bool) -> float:
    """Return the seconds of compute and memory work (float64 [2, n]), one after or beside the other."""
    compute, memory = load.sum(axis=1).tolist()
    return float(compute + memory if serial else max(compute, memory))


def _groups(work: Work, shape: ModelShape, device: DeviceProfile) -> tuple[tuple[Int64, Int32], Float64]:
    """Return bounds of groups (int64 [k + 1]) in an order of all requests (int32 [N]), and their load.

    A group is of requests that cost much more apart from each other. They come by density. The load is
    float64 [2, N]: seconds of compute and of memory work by request.
    """
    plan = plan_tree("dfs", work.tree, work.estimate, shape, device)
    begins = _begins(plan.linked)
    number = np.cumsum(begins) - 1
    c = np.bincount(number, plan.compute[plan.order])
    m = np.bincount(number, plan.memory[plan.order])
    by_density = np.argsort(-c / np.maximum(m, 1e-12), kind="stable")
    place = np.empty_like(by_density)
    place[by_density] = np.arange(len(by_density))
    order = plan.order[np.argsort(place[number], kind="stable")]
    sizes = np.bincount(number)[by_density]
    bounds = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return (bounds, order), np.stack((plan.compute, plan.memory))


def _begins(linked: Bool) -> Bool:
    """Return where a group begins: bool [N]."""
    begins = ~linked
    begins[:1] = True
    at = np.flatnonzero(begins)
    length = np.arange(len(linked)) - np.repeat(at, np.diff(np.append(at, len(linked))))
    return np.asarray(length % GROUP == 0)


def sample(groups: tuple[Int64, Int32], count: int, seed: int) -> Int64:
    """Return about `count` requests in whole groups, every so-many-th one from a random place on, rising."""
    bounds, order = groups
    step = len(order) / count
    first = np.random.default_rng(seed).uniform(0.0, step)
    # Marks in groups that are not taken are made up for by the next ones.
    hits = np.bincount(np.searchsorted(bounds, first + step * np.arange(count), side="right") - 1)
    sizes = np.diff(bounds)
    owed, taken = 0.0, []
    for group in np.flatnonzero(hits).tolist():
        if sizes[group] > 1:
            owed += hits[group]
            if 2.0 * owed < sizes[group]:
                continue
            owed -= sizes[group]
        taken.append(group)
    chosen = [order[bounds[g] : bounds[g + 1]] for g in taken]
    return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.sort(order).astype(np.int64)
