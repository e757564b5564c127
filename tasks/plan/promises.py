"""Promises in a plan: whose requests come first, and when each tenant's are expected to be answered."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.cost.step import step_cost
from engine.plan.promises import promised_ranks, with_priority
from engine.simulate.ends import simulate_ends
from engine.simulate.search import plan_of
from tasks.night.promises import due_times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from engine.cost.profiles import DeviceProfile
    from engine.cost.step import ModelShape
    from engine.plan.policies import Plan
    from engine.runtime.settings import EngineSettings
    from engine.simulate.schedules import Schedule
    from engine.simulate.search import Work
    from tasks.night.night import Night
    from tasks.night.promises import Promise

    Int64 = npt.NDArray[np.int64]
    Float64 = npt.NDArray[np.float64]

FORECAST: Final = "forecast"
"""Of the results of step plan: when answers are expected; None where nothing was promised."""
TODAY: Final = "fcfs"
"""The order in which requests arrive: that without blending."""
SIMPLER: Final = ("dfs", TODAY)
CLOSE: Final = 0.005
"""Times that differ by less than this part are the same: no simulator is that good."""
MOST_TRIED: Final = 20_000
POINTS: Final = 32
"""Of the curve that a forecast has, twice so many at most."""


@dataclass(frozen=True)
class Forecast:
    """When the answers of a plan are expected, in modelled seconds from its begin.

    Only their proportions count: what a second of the model is on the device, a run finds out.

    Attributes
    ----------
    ended, seconds
        After so many seconds so many sequences have ended; both rise.
    tenants
        Promised tenant -> when the last of its sequences ends; those without any are left out.
    """

    ended: tuple[int, ...]
    seconds: tuple[float, ...]
    tenants: Mapping[str, float]

    def seconds_at(self, ended: int) -> float:
        """Return when so many sequences have ended."""
        return float(np.interp(ended, self.ended, self.seconds))

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Forecast:
        """Return what `told` was made from."""
        return cls(tuple(told["ended"]), tuple(told["seconds"]), dict(told["tenants"]))


def owners_of(rows: Sequence[Mapping[str, Any]], promises: Sequence[Promise]) -> Int64:
    """Return for each row the number of the promise to its tenant, int64 [N]; -1 without one."""
    number = {promise.tenant: i for i, promise in enumerate(promises)}
    return np.array([number.get(row["tenant"], -1) for row in rows], np.int64)


def promised_priority(
    night: Night,
    rows: Sequence[Mapping[str, Any]],
    offsets: Int64,
    estimate: Float64,
    priority: Int64 | None,
    shape: ModelShape,
    device: DeviceProfile,
) -> Int64 | None:
    """Return the priorities of the rows with those of promised tenants above all others.

    Parameters
    ----------
    offsets, estimate
        int64 [N + 1], float64 [N]: of the prompts; expected lengths.
    priority
        int64 [N] or None: what the requests say themselves.
    """
    promises = night.settings.promises
    if not promises or not rows:
        return priority
    owner = owners_of(rows, promises)
    if (owner < 0).all():
        return priority
    prompt = np.diff(offsets).astype(np.float64)
    work = shape.request_flops(prompt, np.zeros_like(prompt), estimate) / device.flops
    work = work + shape.request_kv_bytes(prompt, estimate) / device.read_bytes
    now = time.time()
    due = [math.inf if one is None else one.timestamp() - now for one in due_times(promises, night.log.state)]
    share = np.array([promise.share for promise in promises])
    return with_priority(promised_ranks(owner, work, np.array(due), share), priority)


def keeping_pace(
    night: Night,
    rows: Sequence[Mapping[str, Any]],
    work: Work,
    schedule: Schedule,
    shape: ModelShape,
    device: DeviceProfile,
    sizes: EngineSettings | None,
) -> Schedule:
    """Return a schedule by which the tenant that is planned first is not later than in today's order.

    That is `schedule` nearly always: nothing is before the tenant's requests. Where those were the first to
    arrive, too, a blend may end with a few long answers; then simpler orders are tried. All is simulated, so
    the night has to be small enough for that (`MOST_TRIED`) and the memory known.

    Parameters
    ----------
    work
        With the priorities of `promised_priority`.
    """
    owner = owners_of(rows, night.settings.promises)
    if sizes is None or len(rows) > MOST_TRIED or (owner < 0).all():
        return schedule
    cost = step_cost(shape, device)
    output = np.maximum(np.rint(work.estimate), 1).astype(np.int32)

    def ready(policy: str, tried_work: Work) -> tuple[int, Float64]:
        """Return whose requests are first in an order, and when each answer ends."""
        tried = replace(schedule, policy=policy)
        made = plan_of(policy, tried_work, shape, device, night.settings.run_seed)
        ends = simulate_ends(
            tried.of(made), work.tokens, work.start, output, tried.settings(sizes), cost, looks=2000
        )[1]
        return int(owner[made.order[0]]), ends

    _, today = ready(TODAY, replace(work, priority=None, window=None))
    for policy in dict.fromkeys((schedule.policy, *SIMPLER)):
        first, ends = ready(policy, work)
        mine = owner == first
        if ends[mine].max() <= (1.0 + CLOSE) * today[mine].max():
            return replace(schedule, policy=policy)
    return schedule


def forecast(
    night: Night,
    rows: Sequence[Mapping[str, Any]],
    plan: Plan,
    tokens: npt.NDArray[np.int32],
    offsets: Int64,
    shape: ModelShape,
    device: DeviceProfile,
    sizes: EngineSettings | None,
) -> dict[str, Any] | None:
    """Return when the answers of a plan are expected (`Forecast.told`); None where nothing was promised.

    The plan is simulated; where the memory that is to be expected does not hold the longest request
    (`sizes` None), work is counted in its order instead.
    """
    promises = night.settings.promises
    if not promises or not rows:
        return None
    if sizes is None:
        ends = np.empty(len(rows))
        ends[plan.order] = np.cumsum((plan.compute + plan.memory)[plan.order])
    else:
        output = np.maximum(np.rint(plan.estimate), 1).astype(np.int32)
        ends = simulate_ends(plan, tokens, offsets, output, sizes, step_cost(shape, device))[1]
    owner = owners_of(rows, promises)
    tenants = {
        promise.tenant: float(ends[owner == i].max())
        for i, promise in enumerate(promises)
        if (owner == i).any()
    }
    # Closer together where the first answers come: much is multiplied by how long those took.
    early = np.geomspace(1, len(rows), POINTS)
    places = np.unique(np.concatenate(([0], early, np.linspace(1, len(rows), POINTS))).astype(np.int64))
    passed = np.concatenate(([0.0], np.sort(ends)))[places]
    return Forecast(tuple(places.tolist()), tuple(passed.tolist()), tenants).told()
