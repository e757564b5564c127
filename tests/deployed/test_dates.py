"""The right date, whenever a run begins: clock changes, retries, copies, catch-up, backfills cut short."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.deployed.processes import resume_when_told_to_stop
from tests.deployed.site_of_tests import JOB, counted, counts, long_counts, today

COUNT = 4


def start_nightly(site, at: str, **changed):
    """Start the nightly as its schedule would have at a time of the past."""
    deployment = site.deployment("nightly/nightly")
    given = {**deployment["parameters"]["parameters"], "catch_up_days": 0, **changed}
    body = {
        "parameters": {"parameters": given},
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": at}},
    }
    return site.post(f"/deployments/{deployment['id']}/create_flow_run", **body)


@pytest.mark.parametrize(
    ("at", "day"),
    [
        # Started late, hours after the schedule; half past one in summer and winter time of that night.
        ("2026-03-30T01:30:00+02:00", date(2026, 3, 29)),
        ("2026-10-26T01:30:00+01:00", date(2026, 10, 25)),
    ],
)
def test_a_late_night_a_retry_and_a_copy_are_for_the_date_of_the_schedule(site, at, day):
    run = site.ended(start_nightly(site, at)["id"])
    # The logs are not there yet, and the next morning somebody presses `Retry`.
    assert (run["name"], run["state_type"]) == (f"{JOB}-{day}", "FAILED")
    site.write_day(day, counts(COUNT))
    site.post(f"/flow_runs/{run['id']}/set_state", state={"type": "SCHEDULED", "name": "AwaitingRetry"})
    site.wait(lambda: site.run(run["id"])["run_count"] > 1)
    run = site.ended(run["id"])
    assert (run["name"], run["state_name"]) == (f"{JOB}-{day}", "Completed"), site.logs(run["id"])
    assert site.answers(JOB, day) == counted(COUNT)
    # A copy has the run's parameters, and these name the date.
    assert run["parameters"]["parameters"]["run_date"] == str(day)
    copy = site.post(
        f"/deployments/{run['deployment_id']}/create_flow_run",
        parameters=run["parameters"],
        state={"type": "SCHEDULED"},
    )
    copy = site.ended(copy["id"])
    assert (copy["name"], copy["state_name"]) == (f"{JOB}-{day}", "Completed")
    (log,) = site.run_logs(JOB, day)
    assert log.state.attempts[-1].params["options"][-1] == str(day)
    assert sum(part.count for part in log.state.parts_of("outputs")) == COUNT


def test_a_night_starts_the_dates_that_are_missing(site):
    days = [date(2026, 5, 1) + timedelta(days=i) for i in range(3)]
    for day in days:
        site.write_day(day, counts(COUNT))
    run = site.ended(start_nightly(site, "2026-05-04T01:30:00+02:00", catch_up_days=3)["id"])
    assert (run["name"], run["state_name"]) == (f"{JOB}-{days[2]}", "Completed"), site.logs(run["id"])
    asked = {"flow_runs": {"tags": {"all_": [f"asked-by:catch-up-{days[2]}"]}}}
    started = site.wait(lambda: site.post("/flow_runs/filter", **asked))
    assert sorted(found["name"] for found in started) == [f"{JOB}-{day}" for day in days[:2]]
    for found in started:
        assert site.ended(found["id"])["state_name"] == "Completed", site.logs(found["id"])
    for day in days:
        assert site.answers(JOB, day) == counted(COUNT)


def test_a_backfill_that_is_cancelled_stops_its_date_and_goes_on_with_its_id(site):
    days = [today() - timedelta(days=back) for back in (92, 91)]
    site.write_day(days[0], long_counts(30))
    site.write_day(days[1], counts(COUNT))
    asked = {"first": str(days[0]), "last": str(days[1]), "backfill_id": "cut-short"}
    first = site.start("backfill/backfill", **asked)
    log, engine = site.halted_in_the_middle(JOB, days[0], parts=1)
    site.post(f"/flow_runs/{first['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    resume_when_told_to_stop(engine, site.tail)
    assert site.ended(first["id"])["state_type"] == "CANCELLED", site.logs(first["id"])
    site.wait(lambda: log.refresh().holder is None)
    kept = [part.name for part in log.state.parts_of("outputs")]
    assert log.state.ended.status == "stopped"

    again = site.ended(site.start("backfill/backfill", **asked)["id"])
    assert again["state_name"] == "Completed", site.logs(again["id"])
    assert [part.name for part in log.refresh().parts_of("outputs")][: len(kept)] == kept
    assert len(site.answers(JOB, days[0])) == 30
    assert site.answers(JOB, days[1]) == counted(COUNT)
    runs = site.post("/flow_runs/filter", flow_runs={"tags": {"all_": ["asked-by:cut-short"]}})
    keys = sorted(run["idempotency_key"] for run in runs)
    assert keys == [
        f"cut-short:{JOB}:{days[0]}:0",
        f"cut-short:{JOB}:{days[0]}:1",
        f"cut-short:{JOB}:{days[1]}:0",
    ]
    text = site.artifacts(again["id"])[f"backfill-{JOB}"]["data"]
    assert f"| {days[0]} | stopped | run | its last run was stopped |" in text


def test_a_dry_run_starts_nothing(site):
    day = today() - timedelta(days=95)
    site.write_day(day, counts(COUNT))
    run = site.start("backfill/backfill", first=str(day), last=str(day), dry_run=True, gpu_hour_price=2.5)
    run = site.ended(run["id"])
    assert run["state_name"] == "Completed", site.logs(run["id"])
    assert "1 of 1 dates to run" in run["state"]["message"]
    assert site.run_logs(JOB, day) == []


def test_silence_is_told_with_the_next_command(site):
    run = site.ended(site.start("watch/watch", lag_days=300)["id"])
    day = today() - timedelta(days=300)
    assert run["state_name"] == "Overdue"
    assert f"{JOB} of {day} is not published: it is missing. Next: nightblend run" in run["state"]["message"]
    wanted = f"nightblend.partition.{JOB}.{day}"

    def told():
        # The deployment's own schedule may have looked at yesterday meanwhile.
        events = site.events("nightblend.partition.overdue")
        return [event for event in events if event["resource"]["prefect.resource.id"] == wanted]

    assert len(site.wait(told)) == 1
