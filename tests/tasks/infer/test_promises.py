"""An alarm comes from progress: in time, not because of the clock alone, and not where all is well."""

from __future__ import annotations

from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base.accounting import Account
from tasks.infer import promises
from tasks.infer.placement import handover
from tasks.infer.placement.contract import ComputeEnd
from tasks.infer.progress import at_risk
from tasks.infer.promises import PromiseWatch
from tasks.night.promises import Promise
from tasks.plan.promises import Forecast
from tasks.runlog.log import RunLog
from tasks.runlog.records import Attempt, LogRecord, PromiseAtRisk
from tasks.runlog.state import fold
from tasks.store.folder import FolderStore
from tests.support.nights import open_test_night, request, write_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.infer.progress import InferProgress

BEGUN = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)
COUNT, OF_ACME = 200, 100
# As modelled: an answer a second, those of acme first.
FORECAST = Forecast(tuple(range(COUNT + 1)), tuple(map(float, range(COUNT + 1))), {"acme": float(OF_ACME)})


class Night:
    """A night whose answers come one after the other, those of acme first, at the times that a test gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ready_by: str, *records: LogRecord) -> None:
        at = BEGUN.isoformat()
        opened = LogRecord(0, "n", at, Attempt("a1", fresh=True))
        rows = [{"request_id": f"r{i}", "tenant": "acme" if i < OF_ACME else "beta"} for i in range(COUNT)]
        self.work: Any = SimpleNamespace(rows=rows, answered=set())
        night: Any = SimpleNamespace(
            run_date=date(2026, 11, 22),
            attempt=SimpleNamespace(id="a1"),
            settings=SimpleNamespace(promises=(Promise("acme", ready_by),)),
            log=SimpleNamespace(state=fold([opened, *records])),
        )
        self.now = BEGUN.timestamp()
        monkeypatch.setattr(promises, "clock", lambda: self.now)
        self.watch = PromiseWatch(night, self.work)
        self.watch.begin(FORECAST)

    def go_on(self, seconds: float, answers: int, **given: bool) -> list[PromiseAtRisk]:
        self.now += seconds
        done = len(self.work.answered)
        self.work.answered |= {f"r{i}" for i in range(done, min(COUNT, done + answers))}
        self.watch.take_ended(answers)
        return self.watch.look(**given)


def minutes(text: str) -> float:
    return (datetime.fromisoformat(text) - BEGUN).total_seconds() / 60


def test_a_slow_night_is_told_before_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    # An answer each 30 s instead of a second: acme is ready after 50 minutes; promised are 40.
    night = Night(monkeypatch, "23:40")
    night.watch.look()
    found = [risk for _ in range(OF_ACME) for risk in night.go_on(30.0, 1)]
    (risk,) = found
    assert minutes(risk.ready_by) == 40
    # What is told is the least that is to be expected.
    assert 43 < minutes(risk.expected) <= 50.1
    # As soon as a few answers have told the pace.
    assert minutes(risk.seen) < 10
    assert (risk.tenant, risk.requests) == ("acme", OF_ACME)
    (told,) = night.watch.at_risk
    assert "the promise to acme is at risk" in told.text()
    assert night.go_on(30.0, 1) == []


def test_a_night_in_time_is_not_told_however_late_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ready after 38 of 40 minutes: by the clock alone it would look bad for long.
    night = Night(monkeypatch, "23:40")
    assert [risk for _ in range(OF_ACME) for risk in night.go_on(22.8, 1)] == []
    assert night.watch.expectations[0].left == 0


@settings(max_examples=40)
@given(st.lists(st.floats(1.0, 60.0), min_size=OF_ACME, max_size=OF_ACME), st.integers(5, 90))
def test_whoever_is_late_was_told_before(took: list[float], promised: int) -> None:
    """At whatever pace answers come, an alarm comes before the time has passed, or nobody is late."""
    with pytest.MonkeyPatch.context() as patch:
        night = Night(patch, f"{23 + promised // 60 if promised < 60 else 0:02}:{promised % 60:02}")
        night.watch.look()
        found = []
        for seconds in took:
            # A look at least every five seconds, as where no message comes.
            for _ in range(int(seconds // 5)):
                found += night.go_on(5.0, 0)
            found += night.go_on(seconds % 5, 1)
        late = (night.now - BEGUN.timestamp()) / 60 > promised
        if late and found:
            # One look later than the time at most.
            assert minutes(found[0].seen) <= promised + 0.1
        assert found or not late


def test_an_engine_that_stands_still_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night(monkeypatch, "23:40")
    night.watch.look()
    # As fast as modelled, then nothing.
    assert [risk for _ in range(50) for risk in night.go_on(1.0, 1)] == []
    found = [risk for _ in range(60) for risk in night.go_on(60.0, 0)]
    assert found
    assert minutes(found[0].seen) < 40


def test_time_in_which_the_engine_may_not_work_says_nothing_of_its_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    night = Night(monkeypatch, "06:00")
    night.watch.look()
    assert [risk for _ in range(240) for risk in night.go_on(60.0, 0, waits=True)] == []
    assert [risk for _ in range(90) for risk in night.go_on(2.0, 1)] == []
    assert night.watch.expectations[0].expected == pytest.approx(night.now + 20, abs=3)


def test_what_was_told_before_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PromiseAtRisk("acme", "2026-11-22T23:40:00+00:00", "2026-11-23T00:10:00+00:00", "", 3, OF_ACME)
    night = Night(monkeypatch, "23:40", LogRecord(0, "m", BEGUN.isoformat(), before))
    night.watch.look()
    assert [risk for _ in range(OF_ACME) for risk in night.go_on(30.0, 1)] == []
    assert night.watch.at_risk[0].expected == before.expected


def test_who_waits_for_another_machine_hears_of_it(tmp_path: Path) -> None:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night:
        write_inputs(night, [request("a")], Account(lines=1, requests=1))
        night.log.finish_step("tokenize", {"requests": 1, "refused": 0})
        late = PromiseAtRisk("acme", "2026-11-22T23:40:00+00:00", "2026-11-23T00:10:00+00:00", "", 3, 9)
        night.log.append(late)
        ends = iter([None, ComputeEnd("completed")])
        elsewhere: Any = SimpleNamespace(ended=lambda: next(ends))
        watched = RunLog(night.store, night.log.prefix)
        heard: list[InferProgress] = []
        handover._wait(night, elsewhere, watched, night.log.state.epoch, heard.append, 0.01)
    assert heard[0].at_risk == (at_risk("2026-01-02", late),)


def test_without_a_forecast_or_a_time_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night(monkeypatch, "23:01")
    night.watch.begin(None)
    assert [risk for _ in range(OF_ACME) for risk in night.go_on(60.0, 1)] == []
