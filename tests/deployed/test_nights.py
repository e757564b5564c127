"""Nights by schedule and by hand: states, artifacts, events, published files and tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pyiceberg.catalog import load_catalog

from flows.views.events import EVENT, event_id
from tests.deployed.site_of_tests import JOB, ZONE, counted, counts, today
from tests.support.demo_nights import batch_line

COUNT = 8


def scheduled_runs(site, since: datetime) -> list[dict]:
    """Return the runs of the nightly that its schedule has started since a time, oldest first."""
    runs = [run for run in site.runs("nightly/nightly") if run["auto_scheduled"]]
    return [run for run in runs if at(run["expected_start_time"]) >= since]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def published(site, day) -> list[dict]:
    """Return the events that told of a publication of a date."""
    return [event for event in site.events(EVENT) if event["resource"]["nightblend.run-date"] == str(day)]


@pytest.fixture(scope="module", autouse=True)
def schedule(site):
    """The schedule of the nightly, turned on before the other tests: it fires while they run.

    The value is when. It may have fired before, while the site was made and there were no logs.
    """
    since = datetime.now(UTC)
    for back in (0, 1):
        site.write_day(today() - timedelta(days=back), counts(COUNT))
    site.schedule_nightly(active=True)
    yield since
    site.schedule_nightly(active=False)


def test_on_demand_runs_a_date_and_tells_of_bad_rows(site):
    day = today() - timedelta(days=40)
    site.write_day(day, [*counts(COUNT), batch_line("tools", "x", tools=[{"type": "function"}])])
    run = site.ended(site.start("on-demand/on-demand", run_date=day.isoformat())["id"])
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "CompletedWithErrors"), site.logs(
        run["id"]
    )
    assert run["state"]["message"] == f"{COUNT} of {COUNT + 1} requests answered, 1 error"
    assert "no, results are in the run directory only" in site.artifacts(run["id"])[f"night-{JOB}"]["data"]
    (log,) = site.run_logs(JOB, day)
    assert log.state.steps["publish"].results["published"] is False
    assert not (site.root / "store" / JOB / "published" / f"run_date={day}").exists()
    assert published(site, day) == []


def test_running_again_answers_at_once_and_tells_it_again(site):
    day = today() - timedelta(days=41)
    site.write_day(day, counts(COUNT))
    first = site.ended(site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)["id"])
    again = site.ended(site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)["id"])
    assert (first["state_name"], again["state_name"]) == ("Completed", "Completed")
    assert "finished before, nothing computed" in site.artifacts(again["id"])[f"night-{JOB}"]["data"]
    (log,) = site.run_logs(JOB, day)
    assert len(log.state.attempts) == 1
    assert len({event["id"] for event in published(site, day)}) == 1


def test_a_cron_schedule_fires_for_the_day_before(site, schedule):
    runs = site.wait(lambda: scheduled_runs(site, schedule))
    # One is enough: the next ones would only find it finished.
    site.schedule_nightly(active=False)
    run = site.ended(runs[0]["id"])
    assert run["state_name"] == "Completed", site.logs(run["id"])
    scheduled = at(run["expected_start_time"]).astimezone(ZONE)
    day = scheduled.date() - timedelta(days=1)
    assert run["name"] == f"{JOB}-{day}"
    assert site.answers(JOB, day) == counted(COUNT)

    (log,) = site.run_logs(JOB, day)
    assert [ended.exit_code for ended in log.state.endings.values()] == [0]
    # The schedule may have fired again meanwhile: such a run finds the date published.
    site.wait(lambda: log.refresh().holder is None)

    artifacts = site.artifacts(run["id"])
    assert artifacts[f"progress-{JOB}"]["data"] == 100
    assert f"| requests | {COUNT} = {COUNT} outputs + 0 errors |" in artifacts[f"night-{JOB}"]["data"]
    assert "## Planned and actual" in artifacts[f"night-{JOB}"]["data"]
    assert f'"requests": {COUNT}' in artifacts[f"workloads-{JOB}"]["data"]

    publication = log.state.steps["publish"].results["publication_id"]
    events = site.wait(lambda: published(site, day))
    assert {event["id"] for event in events} == {str(event_id(JOB, day.isoformat(), publication))}
    assert events[0]["resource"]["prefect.resource.id"] == f"nightblend.partition.{JOB}.{day}"

    # The tables, read by somebody else's program.
    catalog = load_catalog("nightblend", type="sql", uri=site.catalog)
    rows = catalog.load_table("nightblend.llm_outputs").scan().to_arrow().to_pylist()
    mine = {
        row["custom_id"]: row["text"].strip() for row in rows if (row["job"], row["run_date"]) == (JOB, day)
    }
    assert mine == counted(COUNT)
