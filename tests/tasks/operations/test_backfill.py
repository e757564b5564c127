"""Which dates are chosen, and why, after every way a date can have ended."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import date

import pytest

from flows.dates.in_process import scope_of
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.infer.progress import StoppedError
from tasks.operations.backfill import Scope, date_range, plan_dates, stale_reasons
from tasks.operations.dates import DateStatus, view_date
from tasks.operations.selections import FAILED, MISSING, STALE
from tasks.publish.publication import roll_back
from tasks.runlog import log as runlog
from tasks.runlog.liveness import this_process
from tasks.runlog.log import RunLog
from tasks.store.open import open_store
from tests.support.dated_nights import SimulatedError, day, instead, night_of, write_day
from tests.support.paths import DEMO_MODEL


@pytest.fixture
def root(tmp_path):
    for n in range(5):
        write_day(tmp_path, day(n))
    return tmp_path


def run(root, when: date, steps=None, **changed):
    return run_night(night_request(night_of(root, run_date=when, **changed)), steps=steps or instead())


def planned(root, *days: date, **chosen) -> dict[date, tuple[bool, str]]:
    night = night_of(root)
    if "select" in chosen:
        chosen["select"] = frozenset(chosen["select"])
    found = plan_dates(scope_of(night, open_store(night.store), **chosen), days)
    return {one.run_date: (one.runs, one.reason) for one in found}


def status(root, when: date) -> DateStatus:
    return view_date(open_store(str(root / "store")), "triage", when, lease_s=2).status


def killed(root, when: date, monkeypatch) -> None:
    """Leave what a process leaves that is gone without a word."""
    gone = replace(this_process(), pid=2**22, start_time=1)
    monkeypatch.setattr(runlog, "this_process", lambda: gone)
    monkeypatch.setattr(RunLog, "release", lambda _: None)
    monkeypatch.setattr(RunLog, "end_attempt", lambda *_, **__: None)
    with pytest.raises(SimulatedError):
        run(root, when, instead(answers=1))
    monkeypatch.undo()


def test_every_way_a_date_can_have_ended(root, monkeypatch):
    run(root, day(0))
    with pytest.raises(SimulatedError):
        run(root, day(1), instead(answers=1))

    def stopped(_):
        raise StoppedError("asked to")

    with pytest.raises(StoppedError):
        run(root, day(2), instead(stopped))
    killed(root, day(3), monkeypatch)
    shutil.rmtree(root / "logs" / day(4).isoformat())
    assert [status(root, day(n)) for n in range(5)] == ["done", "failed", "stopped", "killed", "missing"]
    assert planned(root, *(day(n) for n in range(5))) == {
        day(0): (False, "finished"),
        day(1): (True, "its last run failed"),
        day(2): (True, "its last run was stopped"),
        day(3): (True, "its last run was killed"),
        day(4): (False, "the source has no objects for it"),
    }
    # What has run is not missing, and what is missing has not failed.
    write_day(root, day(4))
    chosen = {n: planned(root, *(day(n) for n in range(5)), select={n}) for n in (MISSING, FAILED)}
    assert [runs for runs, _ in chosen[MISSING].values()] == [False, False, False, False, True]
    assert [runs for runs, _ in chosen[FAILED].values()] == [False, True, True, True, False]


def test_a_date_that_somebody_works_on_is_left_to_them(root):
    seen = []

    def look(_):
        seen.append(planned(root, day(0), force=True)[day(0)])

    run(root, day(0), instead(look))
    assert seen == [(False, "a run is on it")]


def test_a_failure_after_a_publication_is_a_failed_date(root):
    run(root, day(0))
    write_day(root, day(0), name="late.jsonl")
    with pytest.raises(SimulatedError):
        run(root, day(0), instead(answers=1))
    assert status(root, day(0)) == "failed"
    run(root, day(0))
    assert status(root, day(0)) == "done"


def test_results_kept_in_the_run_directory_are_no_publication(root):
    run(root, day(0), publish=False)
    assert status(root, day(0)) == "missing"
    run(root, day(0))
    assert status(root, day(0)) == "done"
    with pytest.raises(SimulatedError):
        run(root, day(0), instead(answers=1), publish=False, max_tokens=7)
    assert status(root, day(0)) == "done"


def test_stale_objects_are_found_and_found_to_be_up_to_date_again(root):
    def stale():
        return planned(root, day(0), select={STALE})[day(0)]

    run(root, day(0))
    assert stale() == (False, "finished, and nothing has changed")
    # The same requests, written anew: nothing is computed, and the date is not stale for ever.
    path = root / "logs" / day(0).isoformat() / "day.jsonl"
    os.utime(path, (1, 1))
    assert stale() == (True, "its objects have changed")
    assert planned(root, day(0))[day(0)] == (False, "finished")
    assert run(root, day(0))["reused"] is True
    assert stale() == (False, "finished, and nothing has changed")
    write_day(root, day(0), name="late.jsonl")
    assert stale() == (True, "its objects have changed")
    assert run(root, day(0))["reused"] is False
    assert stale() == (False, "finished, and nothing has changed")
    path.unlink()
    (path.parent / "late.jsonl").unlink()
    assert stale() == (False, "the source has no objects for it any more")


def test_another_model_or_version_of_answers_makes_a_date_stale(root):
    model = root / "model"
    shutil.copytree(DEMO_MODEL, model)
    run(root, day(0), model=str(model))
    night = night_of(root, model=str(model))
    scope = scope_of(night, open_store(night.store), select=frozenset({STALE}))
    assert [one.runs for one in plan_dates(scope, [day(0)])] == [False]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))
    assert [one.reason for one in plan_dates(scope, [day(0)])] == ["the model is another"]
    origin = {"listing": "a", "model": "m", "answer_version": 1}
    assert stale_reasons(origin, "a", "m", 1) == []
    assert stale_reasons(origin, "b", "n", 2) == [
        "its objects have changed",
        "the model is another",
        "the engine answers differently now",
    ]
    assert stale_reasons(origin, "a", None, 1) == []
    assert stale_reasons(None, "a", "m", 1) == ["its log does not say what it was made from"]


def test_a_date_that_was_rolled_back_stays_so(root):
    run(root, day(0))
    write_day(root, day(0), name="late.jsonl")
    run(root, day(0))
    roll_back(open_store(str(root / "store")), "triage", day(0))
    reason = "somebody went back to an earlier publication"
    assert planned(root, day(0), select={STALE})[day(0)] == (False, reason)
    assert planned(root, day(0), force=True)[day(0)] == (True, "asked to run again")


def test_what_it_would_take_comes_from_earlier_runs(root):
    night = night_of(root)
    store = open_store(night.store)
    scope = scope_of(night, store, force=True)
    unknown = plan_dates(scope, [day(0)])[0]
    assert (unknown.seconds, unknown.basis) == (None, "unknown")
    assert unknown.as_dict(3.6)["cost"] is None
    run(root, day(0))
    write_day(root, day(1), 6)
    again, new = plan_dates(scope, [day(0), day(1)])
    assert (again.seconds, again.basis) == (10.0, "its earlier run")
    assert new.seconds == pytest.approx(10.0 * new.bytes / again.bytes)
    assert new.basis == "earlier dates of this job, by size"
    assert again.as_dict(3.6)["cost"] == pytest.approx(0.01)
    # A date alone takes its pace from those published before.
    assert plan_dates(scope, [day(1)])[0].seconds == pytest.approx(new.seconds)
    with pytest.raises(SimulatedError):
        run(root, day(1), instead(answers=3))
    half = plan_dates(scope, [day(1)])[0]
    assert half.seconds == pytest.approx(new.seconds / 2)
    assert half.basis.endswith("50% is answered")


def test_the_model_is_not_read_unless_it_is_asked_about(root):
    def read():
        raise AssertionError

    night = night_of(root)
    scope = Scope(open_store(night.store), "triage", night.source, model=read)
    assert plan_dates(scope, [day(0)])[0].runs


def test_dates_of_a_table_are_run_although_nothing_is_listed(root):
    run(root, day(1))
    of_table = "duckdb:///nowhere.duckdb?query=select * from asked where day = '{run_date}'"
    scope = replace(scope_of(night_of(root), open_store(str(root / "store"))), source=of_table)
    found = {one.run_date: (one.runs, one.reason) for one in plan_dates(scope, [day(0), day(1)])}
    assert found == {day(0): (True, "nothing is published"), day(1): (False, "finished")}
    (one,) = plan_dates(replace(scope, select=frozenset({STALE})), [day(1)])
    assert (one.runs, one.reason) == (False, "finished, and nothing has changed")


def test_ranges_have_both_ends_and_either_order():
    days = date_range(date(2026, 2, 27), date(2026, 3, 2))
    assert [one.isoformat() for one in days] == ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    assert date_range(days[0], days[-1], newest_first=True) == days[::-1]
    assert date_range(days[0], days[0]) == days[:1]
