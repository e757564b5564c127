"""Runs that are cancelled or killed in the middle, or hang: what was answered is kept, the device is free."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.deployed.processes import flow_process, halt_when, process_of, resume_when_told_to_stop
from tests.deployed.site_of_tests import JOB, counted, counts, long_counts, today

if TYPE_CHECKING:
    from datetime import date

COUNT = 60
NAMES = sorted(f"r{i}" for i in range(COUNT))
FEW = 4
FLUSH_S = 6.0
"""An event is seen this long after it was sent: the server writes them every 5 s."""


@dataclass(frozen=True)
class SilentRun:
    """A run whose process was halted: its id, its date and the process."""

    id: str
    day: date
    process: psutil.Process


@pytest.fixture(scope="module", autouse=True)
def silent_run(site):
    """A run whose process is halted as soon as it has given a sign of life, as on a machine that hangs.

    It begins before the other tests: two minutes of silence pass meanwhile.
    """
    silent = next(filter(None, (_silent(site, today() - timedelta(days=days)) for days in (97, 98, 99))))
    yield silent
    process = silent.process
    # A process that is halted ends with SIGKILL alone.
    if process.is_running():
        process.kill()


def _silent(site, day: date) -> SilentRun | None:
    """Start a run and halt it; None if it was at its end before a busy machine let anybody halt it."""
    site.write_day(day, counts(FEW))
    run = site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)
    resource = {"resource": {"id": [f"prefect.flow-run.{run['id']}"]}}
    asked = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, **resource}, "limit": 1}
    site.wait(lambda: site.run(run["id"])["state_type"] == "RUNNING")
    process = process_of(run["id"])
    halt_when(process, lambda: site.post("/events/filter", **asked)["events"], site.tail, FLUSH_S)
    is_halted = process.is_running() and process.status() == psutil.STATUS_STOPPED
    still = site.run(run["id"])["state_type"] == "RUNNING"
    return SilentRun(run["id"], day, process) if is_halted and still else None


def test_a_cancelled_run_flushes_its_answers_and_is_resumed(site):
    day = today() - timedelta(days=60)
    site.write_day(day, long_counts(COUNT))
    run = site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)
    log, engine = site.halted_in_the_middle(JOB, day)
    before = [part.name for part in log.refresh().parts_of("outputs")]
    site.post(f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    resume_when_told_to_stop(engine, site.tail)
    assert site.ended(run["id"])["state_type"] == "CANCELLED", site.logs(run["id"])
    assert psutil.wait_procs([engine], timeout=15)[1] == []

    state = log.refresh()
    assert (state.ended.status, state.ended.exit_code, state.holder) == ("stopped", 4, None)
    kept = [part.name for part in state.parts_of("outputs")]
    assert kept[: len(before)] == before
    assert sum(part.count for part in state.parts_of("outputs")) < COUNT
    # Nothing waits for a slot that a cancelled run has left behind.
    assert site.get("/v2/concurrency_limits/gpu:nightblend")["active_slots"] == 0

    again = site.ended(site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)["id"])
    assert again["state_name"] == "Completed", site.logs(again["id"])
    state = log.refresh()
    assert [part.name for part in state.parts_of("outputs")][: len(kept)] == kept
    assert len(state.attempts) == 2
    assert sorted(site.answers(JOB, day)) == NAMES


def test_a_killed_run_frees_its_device_and_is_started_again_for_its_date(site):
    day = today() - timedelta(days=61)
    site.write_day(day, long_counts(COUNT))
    run = site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)
    log, engine = site.halted_in_the_middle(JOB, day)
    flow_process(log).kill()
    engine.resume()
    # The engine sees its parent's end and goes by itself.
    assert psutil.wait_procs([engine], timeout=15)[1] == []
    assert site.ended(run["id"])["state_type"] == "CRASHED"

    (successor,) = site.wait(lambda: site.reruns_of(run["id"]))
    assert successor["parameters"]["parameters"]["run_date"] == day.isoformat()
    assert site.ended(successor["id"])["state_name"] == "Completed", site.logs(successor["id"])
    assert successor["deployment_id"] == run["deployment_id"]
    state = log.refresh()
    assert [ended.exit_code for ended in state.endings.values()] == [4, 0]
    assert sorted(site.answers(JOB, day)) == NAMES


def test_a_run_without_a_sign_of_life_has_crashed_and_is_started_again(site, silent_run):
    run = site.ended(silent_run.id)
    assert (run["state_type"], run["state"]["message"]) == (
        "CRASHED",
        "No sign of life for 120 s: its process has gone.",
    )
    (successor,) = site.wait(lambda: site.reruns_of(run["id"]))
    assert successor["parameters"]["parameters"]["run_date"] == silent_run.day.isoformat()
    ended = site.ended(successor["id"])
    assert ended["state_name"] == "Completed", site.logs(ended["id"])
    assert site.answers(JOB, silent_run.day) == counted(FEW)

    # The machine comes back: what was done meanwhile stays as it is.
    silent_run.process.resume()
    silent_run.process.wait(120)
    (log,) = site.run_logs(JOB, silent_run.day)
    assert log.state.finished
    assert [end.exit_code for end in log.state.endings.values()].count(0) == 1
    assert site.answers(JOB, silent_run.day) == counted(FEW)
