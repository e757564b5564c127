"""What the flows tell Prefect: progress, states, artifacts, events, reruns, presets."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from engine.errors import EngineError
from flows.deploy.automations import (
    SILENT_S,
    late,
    needs_a_look,
    overdue,
    rerun_crashed,
    silence,
    zombies,
)
from flows.deploy.plugin import HEARTBEAT_S, RUN_ENVIRONMENT
from flows.deploy.pools import KINDS, base_job_template
from flows.on_demand import OnDemandParameters
from flows.parameters.nightly import NightlyParameters
from flows.parameters.presets import PRESETS
from flows.parameters.to_request import night_request
from flows.recover import with_date
from flows.run.failures import UnexpectedError, describe
from flows.run.prefect_tasks import STEPS, limit_name, may_pass, told
from flows.views.artifacts import markdown, planned_rows, workload_rows
from flows.views.events import EVENT, event_id
from flows.views.progress_text import progress_text
from flows.watch import OVERDUE
from tasks.base.errors import ConfigurationError
from tasks.infer.progress import InferProgress
from tasks.store.contract import StoreUnavailableError

SITE = {"job": "triage", "source": "logs/{run_date:%Y/%m/%d}/", "store": "store", "model": "model"}
PROMPT = "the secret of the prompt"


def test_progress_tells_rate_and_time_left_of_this_attempt_alone():
    # 500 answers are of an earlier attempt: they say nothing about the rate.
    first = InferProgress(answered=500, requests=1000, output_tokens=0, seconds=2.0)
    now = InferProgress(answered=600, requests=1000, output_tokens=12_000, seconds=22.0)
    assert progress_text(now, first) == (
        "600 of 1,000 requests answered, 545 output tokens/s, about 1 min to go"
    )
    assert progress_text(first, first) == "500 of 1,000 requests answered, 0 output tokens/s"


@pytest.mark.parametrize(
    ("rate", "left"), [(10.0, "about 40 s"), (0.1, "about 1 h 07 min"), (0.01, "about 11 h 07 min")]
)
def test_time_left_is_in_hours_and_minutes(rate, left):
    first = InferProgress(0, 1000, 0, 0.0)
    assert left in progress_text(InferProgress(600, 1000, 1, 600 / rate), first)


def test_a_step_never_lets_the_text_of_an_unknown_error_through():
    def fails():
        raise ValueError(PROMPT)

    with pytest.raises(UnexpectedError) as caught:
        told(fails)()
    assert PROMPT not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert str(caught.value).startswith("failed with ValueError at ")

    def told_error():
        raise EngineError("the model does not fit")

    with pytest.raises(EngineError, match="does not fit"):
        told(told_error)()
    assert describe(ConfigurationError("--x", "is wrong", "Correct it")) == "--x: is wrong. Correct it."


def test_only_a_store_that_fails_for_a_time_is_tried_again():
    from prefect.states import Failed

    assert may_pass(None, None, Failed(data=StoreUnavailableError("503")))
    for error in (
        ConfigurationError("--x", "is wrong", "Correct it"),
        UnexpectedError("x"),
        EngineError("y"),
    ):
        assert not may_pass(None, None, Failed(data=error))


def test_steps_remember_nothing_in_prefect():
    from dataclasses import fields

    from prefect.cache_policies import NO_CACHE

    for field in fields(STEPS):
        task = getattr(STEPS, field.name)
        assert task.cache_policy == NO_CACHE
        assert task.persist_result is False
        assert (task.retries, task.retry_jitter_factor) == (3, 0.5)


def test_the_event_of_a_publication_has_one_id():
    assert event_id("a", "2026-11-22", "p") == event_id("a", "2026-11-22", "p")
    ids = {event_id(job, day, p) for job in "ab" for day in ("2026-11-22", "2026-11-23") for p in "pq"}
    assert len(ids) == 8


def test_a_rerun_gets_the_date_that_the_crashed_run_was_scheduled_for():
    parameters = {"parameters": {**SITE, "timezone": "Europe/Berlin"}}
    # Half past midnight in Berlin, still the day before in UTC.
    scheduled = datetime(2026, 3, 29, 22, 30, tzinfo=UTC)
    assert with_date(parameters, scheduled)["parameters"]["run_date"] == "2026-03-29"
    given = {"parameters": {**SITE, "run_date": "2026-01-02"}}
    assert with_date(given, scheduled)["parameters"]["run_date"] == "2026-01-02"


def test_a_preset_fills_what_is_left_at_its_default():
    night = NightlyParameters.parse({**SITE, "preset": "trial", "part_answers": 7})
    settings = night_request(night).settings
    assert (settings.publish, settings.part_seconds, settings.part_answers) == (False, 10.0, 7)
    assert night_request(NightlyParameters.parse(SITE)).settings.publish is True


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_night(name):
    values = PRESETS[name].values
    assert night_request(NightlyParameters.parse({**SITE, **values})) == (
        night_request(NightlyParameters.parse({**SITE, "preset": name}))
    )


def test_on_demand_needs_its_date_and_does_not_publish():
    with pytest.raises(ConfigurationError, match="--run-date: is missing"):
        OnDemandParameters.parse(SITE)
    asked = OnDemandParameters.parse({**SITE, "run_date": "2026-11-22"})
    assert night_request(asked).run_date == date(2026, 11, 22)
    assert night_request(asked).settings.publish is False
    assert list(OnDemandParameters.model_fields) == list(NightlyParameters.model_fields)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_give_signs_of_life_often_enough_wherever_they_are_started(kind):
    """Prefect's default of 180 s would have every longer run taken for dead."""
    env = base_job_template(kind)["variables"]["properties"]["env"]["default"]
    assert env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
    # Of `nightblend serve`.
    assert RUN_ENVIRONMENT["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)


def test_automations_know_every_end_of_a_run():
    trigger = zombies().trigger
    assert trigger.within.total_seconds() == SILENT_S >= 3 * HEARTBEAT_S
    for name in ("Completed", "CompletedWithErrors", "Failed", "Stopped", "Crashed", "Cancelled"):
        assert f"prefect.flow-run.{name}" in trigger.expect
    some = event_id("a", "b", "c")
    assert rerun_crashed(some).trigger.expect == {"prefect.flow-run.Crashed"}
    assert needs_a_look(None).actions[0].type == "do-nothing"
    assert needs_a_look(some).actions[0].block_document_id == some


def covers(automation, event: str, resource: dict[str, str], *tags: str) -> bool:
    """Whether the server would look at an event for an automation."""
    from prefect.server.events.schemas.automations import EventTrigger
    from prefect.server.events.schemas.events import ReceivedEvent

    trigger = EventTrigger.model_validate(automation.trigger.model_dump(mode="json"))
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]
    told = {"occurred": "2026-03-29T01:30:00Z", "event": event, "resource": resource, "related": related}
    return trigger.covers(ReceivedEvent.model_validate({**told, "id": str(event_id("a", "b", "c"))}))


def test_absence_is_looked_for_where_it_means_something():
    run = {"prefect.resource.id": "prefect.flow-run.1"}
    assert covers(late(None), "prefect.flow-run.Late", run, "nightblend", "auto-scheduled")
    assert covers(late(None), "prefect.flow-run.Running", run, "nightblend", "auto-scheduled")
    # A date of a backfill waits for its turn, and other flows are no business of ours.
    assert not covers(late(None), "prefect.flow-run.Late", run, "nightblend")
    assert not covers(late(None), "prefect.flow-run.Late", run, "auto-scheduled")
    partition = {"prefect.resource.id": "nightblend.partition.j.2026-03-29", "nightblend.job": "j"}
    assert covers(silence(None), EVENT, partition)
    assert silence(None).trigger.for_each == {"nightblend.job"}
    assert silence(None).trigger.within.total_seconds() > 25 * 3600
    assert covers(overdue(None), OVERDUE, partition)
    assert not covers(overdue(None), EVENT, partition)


def test_limits_are_named_by_pool_or_machine():
    assert limit_name("nightblend") == "gpu:nightblend"
    assert limit_name(None).startswith("gpu:")


def test_the_page_of_a_night_keeps_its_tables_whole():
    rows = planned_rows(
        {
            "requests": {"planned": 10, "actual": 9},
            "compute_seconds": {"planned": 0.25, "actual": 0.5},
            "steps": {"planned": None, "actual": 3},
        }
    )
    assert rows == [("requests", "10", "9"), ("compute seconds", "0.25", "0.5")]
    result = {
        "job": "j",
        "run_date": "2026-11-22",
        "status": "Completed",
        "exit_code": 0,
        "reused": False,
        "published": True,
        **dict.fromkeys(("requests", "outputs", "errors", "quarantined", "filtered"), 1),
        **dict.fromkeys(("input_tokens", "output_tokens", "recomputed_tokens"), 1),
        "seconds": 1.0,
        "tokens_per_second": 2.0,
        "hit_rate": 0.5,
        "hit_rate_optimum": 0.6,
        "run_dir": "/a|b/run",
        "output_file": "o",
        "error_file": "e",
    }
    page = markdown(result, rows)
    assert "| run | /a\\|b/run |" in page
    assert "| requests | 10 | 9 |" in page
    loads = {
        "workloads": {
            "w": dict.fromkeys(
                ("requests", "outputs", "errors", "input_tokens", "output_tokens", "cached_tokens"), 2
            )
        }
    }
    assert workload_rows(loads)[0]["workload"] == "w"
