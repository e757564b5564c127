"""What Prefect shows of a candidate's stage, and what it and the command line say of a promise at risk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from uuid import UUID

import httpx
import pytest

from flows.deploy.automations import promise_at_risk
from flows.parameters.to_request import night_request
from flows.run.prefect_tasks import name_of
from flows.run.sequence import run_night
from flows.views import events, progress, stage
from flows.views.progress import FlowReporter
from flows.views.stage import share_tag, show_stage, stage_tag, stage_text
from flows.views.status import rows_of
from tasks.infer.progress import AtRisk, InferProgress
from tasks.night.night import Night
from tasks.night.request import SIDE, Side
from tasks.operations.status import date_status
from tasks.runlog.records import Attempt, PromiseAtRisk
from tasks.store.folder import FolderStore
from tests.support.dated_nights import FIRST, instead, night_of, write_day

RISK = AtRisk("2026-03-27", "acme", "2026-03-28T06:00:00+00:00", "2026-03-28T07:30:00+00:00", 1200, 4000)
SAID = (
    "the promise to acme is at risk: its requests are expected at 07:30 UTC, 90 minutes after 06:00 UTC; "
    "1,200 of 4,000 are answered"
)


def test_a_promise_at_risk_is_told_once_in_the_log_and_as_an_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **given: told.append(given))
    monkeypatch.setattr(FlowReporter, "_show", lambda *_: None)
    monkeypatch.setattr(progress, "CALM_S", 1000.0)
    reporter = FlowReporter(logging.getLogger("night"), "triage")
    with caplog.at_level(logging.WARNING):
        for risks in ((), (RISK,), (RISK,)):
            reporter.answered(InferProgress(1, 2, 3, 4.0, at_risk=risks))
    assert [record.message for record in caplog.records] == [SAID]
    (event,) = told
    assert {event["event"]} == promise_at_risk(None).trigger.expect
    assert event["payload"]["text"] == SAID
    assert event["resource"]["nightblend.run-date"] == "2026-03-27"
    # Another process that goes on with the night tells the same event.
    FlowReporter(logging.getLogger("night"), "triage").answered(InferProgress(1, 2, 3, 4.0, at_risk=(RISK,)))
    assert told[1]["id"] == event["id"]


def test_status_says_of_a_night_that_goes_on_which_promise_is_at_risk(tmp_path) -> None:
    write_day(tmp_path, FIRST)
    found: list[dict[str, Any]] = []

    def look(night: Any) -> None:
        night.log.append(PromiseAtRisk("acme", RISK.ready_by, RISK.expected, "", 1200, 4000))
        night.log.append(PromiseAtRisk("acme", RISK.ready_by, "2026-03-28T08:00:00+00:00", "", 1, 4000))
        store = FolderStore(tmp_path / "store")
        found.append(date_status(store, "triage", FIRST, store_name="store", lease_s=2))

    run_night(night_request(night_of(tmp_path, run_date=FIRST, report=False)), steps=instead(look))
    # As it was first told.
    assert ("at risk", SAID) in rows_of(found[0])
    done = date_status(FolderStore(tmp_path / "store"), "triage", FIRST, store_name="store", lease_s=2)
    assert not [name for name, _ in rows_of(done) if name == "at risk"]


@pytest.mark.parametrize(
    ("where", "percent", "tag", "text"),
    [
        ("canary", 25.0, "candidate: canary 25 %", "candidate policy=dfs: canary, 25 % from now on (why)"),
        ("held", 5.0, "candidate: held 5 %", "candidate policy=dfs: held, 5 % from now on (why)"),
        ("promoted", 100.0, "candidate: promoted 100 %", "promoted, 100 % from now on (why)"),
        ("fallen back", 0.0, "candidate: fallen back", "candidate policy=dfs: fallen back (why)"),
    ],
)
def test_a_stage_in_words(where: str, percent: float, tag: str, text: str) -> None:
    told = {"candidate": "policy=dfs", "stage": where, "percent": percent, "reason": "why"}
    assert stage_tag(told) == tag
    assert text in stage_text(told)
    if where == "canary":
        assert stage_tag(told | {"share": 5.0}) == "candidate: canary 5 %, next 25 %"
    assert share_tag(2.5) == "candidate: canary 2.5 %"


def test_whose_step_it_is_the_name_of_its_task_says() -> None:
    asked = night_request(night_of(Path(), run_date=FIRST))
    side = Side("candidate", "request", 5.0)
    night: Any = Night("j", FIRST, "k", *[None] * 2, Attempt("a"), *[None] * 3)
    theirs: Any = replace(night, attempt=Attempt("a", params={SIDE: side.told()}))
    for given, name in (
        ({"request": asked, "scratch": Path()}, "infer"),
        ({"request": replace(asked, side=side), "scratch": Path()}, "candidate: infer"),
        ({"night": night, "on_progress": None}, "infer"),
        ({"night": theirs, "on_progress": None}, "candidate: infer"),
        ({}, "infer"),
    ):
        assert name_of("infer", given) == name


def test_a_tag_takes_the_place_of_the_one_before_and_costs_no_night(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tags = ["nightblend", "candidate: canary 5 %"]

    class Client:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read_flow_run(self, _: UUID) -> Any:
            return SimpleNamespace(tags=list(tags))

        def update_flow_run(self, _: UUID, tags: list[str]) -> None:
            written.append(tags)

    written: list[list[str]] = []
    log = logging.getLogger("night")
    monkeypatch.setattr(stage, "get_client", lambda **_: Client())
    monkeypatch.setattr(stage, "flow_run", SimpleNamespace(id=None))
    show_stage("candidate: canary 25 %", log)
    assert written == []
    monkeypatch.setattr(stage, "flow_run", SimpleNamespace(id=str(UUID(int=1))))
    show_stage("candidate: canary 25 %", log)
    assert written == [["nightblend", "candidate: canary 25 %"]]

    def away(**_: object) -> Client:
        raise httpx.ConnectError("gone")

    monkeypatch.setattr(stage, "get_client", away)
    show_stage("candidate: canary 25 %", log)
    assert "the candidate's stage is not among the run's tags: ConnectError" in caplog.text
