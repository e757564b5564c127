"""Nightblend from Python: the same nights, with types and exceptions."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from datetime import date
from pathlib import Path

import pytest

from flows.api import (
    ConfigurationError,
    NightResult,
    NotPublishedError,
    estimate,
    inspect,
    results,
    run_night,
)
from flows.parameters.nightly import NightlyParameters
from flows.run.failures import AbortedError
from flows.run.sequence import RESULT_KEYS
from tests.support.demo_nights import DAY, batch_line, write_lines
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow

REQUESTS = 6


@pytest.fixture(autouse=True)
def without_a_server(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def write_day(root: Path) -> None:
    lines = [
        batch_line(f"c{i}", f"Count from {i} to {i + 4}.", max_tokens=32) for i in range(1, REQUESTS + 1)
    ]
    lines.append(batch_line("tools", "x", tools=[{"type": "function"}]))
    write_lines(root / "logs", "day.jsonl", lines)


def asked(root: Path, **more) -> dict:
    given = {
        "job": "triage",
        "source": root / "logs",
        "store": root / "store",
        "model": DEMO_MODEL,
        "run_date": DAY,
        "catalog": "none",
        "report": False,
        "kv_tokens": 4096,
    }
    return given | more


def test_a_night_its_results_and_what_it_did(tmp_path, capsys):
    write_day(tmp_path)
    seen, heard = [], []
    night = run_night(**asked(tmp_path), quiet=True, on_progress=seen.append, on_result=heard.append)
    assert capsys.readouterr() == ("", "")
    # One of seven rows is bad, more than 1 %: published all the same.
    assert (night.status, night.exit_code, night.within_limits) == ("CompletedWithErrors", 3, False)
    assert (night.requests, night.outputs, night.errors, night.reused) == (REQUESTS + 1, REQUESTS, 1, False)
    assert night.run_date == DAY
    assert night.published
    assert heard == [night]
    assert seen[-1].output_tokens == night.output_tokens
    assert list(night.as_dict()) == list(RESULT_KEYS)
    json.dumps(night.as_dict())

    answers = {row["custom_id"]: row["text"] for row in night.read_outputs().to_dicts()}
    assert answers["c3"].strip() == "3 4 5 6 7"
    assert night.read_errors()["custom_id"].to_list() == ["tools"]

    published = results(tmp_path / "store", "triage", DAY.isoformat())
    assert (published.publication_id, published.run_key) == (night.publication_id, night.run_key)
    assert (published.output_file, published.report_file) == (night.output_file, None)
    assert published.summary["requests"] == night.requests
    assert published.outputs().equals(night.read_outputs())
    assert published.errors().equals(night.read_errors())

    did = inspect(night.run_dir, top=1)
    assert (did.status, did.policy, len(did.attempts)) == ("completed_with_errors", "blend", 1)
    assert did.tree["requests"] == REQUESTS
    assert did.as_dict()["planned"] == did.planned

    again = run_night(
        NightlyParameters.parse({**texts(asked(tmp_path)), "max_bad_fraction": 0.5}), quiet=True
    )
    assert again.reused
    assert again.publication_id == night.publication_id


def texts(given: dict) -> dict:
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def test_a_result_has_what_the_command_prints():
    assert set(RESULT_KEYS) <= {field.name for field in fields(NightResult)}


def test_fields_replace_those_of_a_form_and_leave_the_others(tmp_path):
    write_day(tmp_path)
    form = NightlyParameters.parse(texts(asked(tmp_path)))
    night = run_night(form, publish=False, max_bad_fraction=0.5, quiet=True)
    assert (night.exit_code, night.published) == (0, False)
    assert night.read_outputs().height == REQUESTS
    with pytest.raises(NotPublishedError, match=f"nothing of triage is published for {DAY}, it is missing"):
        results(tmp_path / "store", "triage", DAY)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"policy": "fastest"}, "--policy: 'fastest' is unknown"),
        ({"polcy": "dfs"}, "--polcy: is not known. Did you mean --policy?"),
        ({"run_date": None}, "--run-date: "),
        ({"compute_on": "compute/compute"}, "--compute-on: needs a Prefect server"),
        ({"source": "nowhere"}, "--source: nowhere does not exist"),
    ],
)
def test_a_wrong_setting_is_an_exception_that_names_it(tmp_path, changed, line):
    write_day(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        run_night(**asked(tmp_path, **changed), quiet=True)
    assert str(caught.value).startswith(line)


def test_a_night_that_is_aborted_is_an_exception(tmp_path):
    write_lines(tmp_path / "logs", "day.jsonl", [batch_line("a", "x"), '{"a', '{"b'])
    with pytest.raises(AbortedError, match="2 of 3 lines are no requests"):
        run_night(**asked(tmp_path), quiet=True)


def test_a_night_that_one_cause_refuses_ends_before_it_is_planned(tmp_path):
    lines = [batch_line(f"c{i}", f"Count from {i} to {i + 4}.") for i in range(11)]
    write_lines(tmp_path / "logs", "day.jsonl", lines)
    bare = tmp_path / "bare"
    shutil.copytree(DEMO_MODEL, bare, ignore=shutil.ignore_patterns("chat_template.jinja"))
    with pytest.raises(AbortedError, match=r"11 of 11 .* no chat template.*chat_template\.jinja") as caught:
        run_night(**asked(tmp_path, model=bare), quiet=True)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "store").rglob("plan/*"))
    with pytest.raises(NotPublishedError):
        results(tmp_path / "store", "triage", DAY)
    night = run_night(**asked(tmp_path, model=bare, abort_quarantined_fraction=1.0), quiet=True)
    assert (night.exit_code, night.outputs, night.errors) == (3, 0, 11)


def test_a_wrong_date_or_store_of_results_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="run_date: 'yesterday' is no date"):
        results(tmp_path, "triage", "yesterday")
    with pytest.raises(NotPublishedError, match="nothing of triage is published for 2026-01-02"):
        results(tmp_path, "triage", date(2026, 1, 2))


@pytest.mark.usefixtures("prefect_api")
def test_another_flow_runs_a_night_as_subflow_or_as_plain_steps(tmp_path):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    write_day(tmp_path)
    ids = []

    @flow(name="weekly", persist_result=False)
    def weekly() -> tuple[NightResult, NightResult]:
        ids.append(flow_run.id)
        first = run_night(**asked(tmp_path), as_flow=True)
        return first, run_night(**asked(tmp_path), quiet=True)

    first, second = weekly()
    assert (first.outputs, first.reused) == (REQUESTS, False)
    assert (second.publication_id, second.reused) == (first.publication_id, True)
    with get_client(sync_client=True) as client:
        runs = {run.name: run for run in client.read_flow_runs()}
        inner = runs[f"triage-{DAY}"]
        parents = [run for run in client.read_task_runs() if run.id == inner.parent_task_run_id]
    assert inner.state_name == "CompletedWithErrors"
    assert [str(run.flow_run_id) for run in parents] == [ids[0]]


def test_a_flow_takes_no_callback(tmp_path):
    with pytest.raises(TypeError, match="on_progress"):
        run_night(**asked(tmp_path), as_flow=True, on_progress=print)


def test_results_of_an_s3_store(s3_bucket, tmp_path):
    write_day(tmp_path)
    store = f"s3://{s3_bucket}/some/prefix"
    night = run_night(**asked(tmp_path, store=store), quiet=True)
    published = results(store, "triage", DAY)
    assert published.folder.startswith("s3://")
    assert published.output_file == night.output_file
    assert published.outputs().equals(night.read_outputs())
    assert published.outputs().height == REQUESTS


def test_an_estimate_has_machines_orders_and_a_verdict(tmp_path, capsys):
    log = tmp_path / "day.csv"
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "XXX,700,40\nXXX,40,400\n" * 40)
    page = tmp_path / "estimate.html"
    given = {"source": log, "model": "llama-3.1-8b", "gpu": "h200", "max_gpus": 1, "price": 3.0}
    found = estimate(**given, out=page)
    assert "simulating h200" in capsys.readouterr().err
    (machine,) = found.machines
    assert (machine.name, machine.gpus, machine.price_per_gpu_hour) == ("h200", 1, 3.0)
    assert machine.gpu_hours.low <= machine.gpu_hours.central <= machine.gpu_hours.high
    assert machine.money.central == pytest.approx(3.0 * machine.gpu_hours.central)
    assert {order.order for order in machine.orders} == {"fcfs", "dfs", "interleave", "blend"}
    assert machine.best_order in {order.order for order in machine.orders}
    assert found.verdict.startswith("h200: ")
    assert found.requests == 80
    assert found.as_dict()["machines"][0]["machine"] == "h200"
    assert page.read_text() == found.html()
    assert "<svg" in found.html()
    with pytest.raises(ConfigurationError, match="--out: there is no folder"):
        estimate(**given, out=tmp_path / "no" / "page.html", quiet=True)
    with pytest.raises(ConfigurationError, match="--model: is missing"):
        estimate(source=log)
