"""Runs that are cancelled or killed in the middle: the device is free, what was answered is kept."""

from __future__ import annotations

from datetime import timedelta

import psutil
from site_of_tests import JOB, LONG_S, engine_of, flow_process, long_counts, today, wait

COUNT = 60
NAMES = sorted(f"r{i}" for i in range(COUNT))


def test_a_cancelled_run_flushes_its_answers_and_is_resumed(site):
    day = today() - timedelta(days=60)
    site.write_day(day, long_counts(COUNT))
    run = site.start("on-demand/on-demand", run_date=day.isoformat(), publish=True)
    log = site.in_the_middle(JOB, day)
    engine = engine_of(flow_process(log))
    before = [part.name for part in log.refresh().parts_of("outputs")]
    site.post(f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
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
    log = site.in_the_middle(JOB, day)
    process = flow_process(log)
    engine = engine_of(process)
    process.kill()
    # The engine sees its parent's end and goes by itself.
    assert psutil.wait_procs([engine], timeout=15)[1] == []
    assert site.ended(run["id"])["state_type"] == "CRASHED"

    (successor,) = wait(lambda: site.reruns_of(run["id"]), LONG_S, site.tail)
    assert successor["parameters"]["parameters"]["run_date"] == day.isoformat()
    assert site.ended(successor["id"])["state_name"] == "Completed", site.logs(successor["id"])
    assert successor["deployment_id"] == run["deployment_id"]
    state = log.refresh()
    assert [ended.exit_code for ended in state.endings.values()] == [4, 0]
    assert sorted(site.answers(JOB, day)) == NAMES
