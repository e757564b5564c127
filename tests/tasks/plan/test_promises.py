"""A promised tenant is not later than in today's order, and the rest of the night is blended all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.cost.step import NOMINAL
from engine.plan.policies import plan_tree
from engine.plan.tree import build_tree
from engine.runtime.settings import EngineSettings
from engine.simulate.ends import simulate_ends
from engine.simulate.schedules import Schedule
from engine.simulate.search import Work
from tasks.night.promises import Promise
from tasks.plan.promises import CLOSE, Forecast, forecast, keeping_pace, promised_priority
from tasks.runlog.records import Attempt, LogRecord
from tasks.runlog.state import fold
from tests.support.simulated_nights import COST, SHAPE, random_night

COUNT, MINE = 160, 40
SIZES = EngineSettings(512, 4, 64, 8)
BLEND = Schedule("blend", 64, pacing=False)
DEVICE = NOMINAL["a100"]
OPENED = LogRecord(0, "n", "2026-11-22T23:00:00+00:00", Attempt("a1", fresh=True))


def night_of(*promises: Promise) -> Any:
    settings = SimpleNamespace(promises=promises, run_seed=0)
    return SimpleNamespace(settings=settings, log=SimpleNamespace(state=fold([OPENED])))


def rows_of(seed: int, arrival: str) -> list[dict[str, Any]]:
    places = {"first": range(MINE), "last": range(COUNT - MINE, COUNT)}
    mine = set(places.get(arrival, np.random.default_rng(seed).permutation(COUNT)[:MINE].tolist()))
    return [{"tenant": "acme" if i in mine else None} for i in range(COUNT)]


@pytest.mark.parametrize("arrival", ["first", "mixed", "last"])
@pytest.mark.parametrize("seed", range(6))
def test_a_promised_tenant_is_not_later_than_without_blending(seed: int, arrival: str) -> None:
    tokens, start, output, estimate = random_night(seed, COUNT, 40, 1.0)
    night, rows, tree = night_of(Promise("acme", "06:00")), rows_of(seed, arrival), build_tree(tokens, start)
    priority = promised_priority(night, rows, start, estimate, None, SHAPE, DEVICE)
    work = Work(tree, tokens, start, estimate, None, priority)
    mine = np.array([row["tenant"] == "acme" for row in rows])

    def ready(schedule: Schedule, constraint: np.ndarray | None) -> float:
        made = schedule.of(plan_tree(schedule.policy, tree, estimate, SHAPE, DEVICE, priority=constraint))
        if constraint is not None:
            assert mine[made.order[:MINE]].all()
        return float(simulate_ends(made, tokens, start, output, SIZES, COST, looks=COUNT)[1][mine].max())

    found = keeping_pace(night, rows, work, BLEND, SHAPE, DEVICE, SIZES)
    today = ready(Schedule("fcfs", 64, pacing=False), None)
    assert ready(found, priority) <= (1 + CLOSE) * today
    # What came later or in between is far sooner, and nothing but the blend was needed for that.
    if arrival != "first":
        assert found == BLEND


def test_without_promises_nothing_changes() -> None:
    tokens, start, _, estimate = random_night(0, COUNT, 40, 1.0)
    rows, tree = rows_of(0, "first"), build_tree(tokens, start)
    own = np.arange(COUNT)
    for night in (night_of(), night_of(Promise("somebody", "06:00"))):
        assert promised_priority(night, rows, start, estimate, own, SHAPE, DEVICE) is own
        work = Work(tree, tokens, start, estimate)
        assert keeping_pace(night, rows, work, BLEND, SHAPE, DEVICE, SIZES) == BLEND
    plan = plan_tree("blend", tree, estimate, SHAPE, DEVICE)
    assert forecast(night_of(), rows, plan, tokens, start, SHAPE, DEVICE, SIZES) is None


@pytest.mark.parametrize("sizes", [SIZES, None])
def test_a_forecast_says_how_many_answers_are_there_when(sizes: EngineSettings | None) -> None:
    tokens, start, _, estimate = random_night(1, COUNT, 40, 1.0)
    rows = rows_of(1, "last")
    night = night_of(Promise("acme", "06:00"), Promise("nobody", None, 0.5))
    priority = promised_priority(night, rows, start, estimate, None, SHAPE, DEVICE)
    plan = plan_tree("blend", build_tree(tokens, start), estimate, SHAPE, DEVICE, priority=priority)
    told = forecast(night, rows, plan, tokens, start, SHAPE, DEVICE, sizes)
    found = Forecast.read(told)
    assert (found.ended[0], found.ended[-1]) == (0, COUNT)
    assert (np.diff(found.seconds) >= 0).all()
    assert found.seconds_at(0) == 0.0
    assert found.tenants.keys() == {"acme"}
    # Those that come first are ready first.
    assert found.seconds_at(MINE // 2) < found.tenants["acme"] < found.seconds_at(COUNT)
    assert Forecast.read(found.told()) == found
