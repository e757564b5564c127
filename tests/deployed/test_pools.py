"""Nights in two pools: one without GPUs prepares and publishes, step infer is a flow run in the other."""

from __future__ import annotations

from datetime import timedelta

import psutil
import pytest

from tests.deployed.processes import engine_of, flow_process, process_of, resume_when_told_to_stop
from tests.deployed.site_of_tests import JOB, long_counts, today

COUNT = 60
NAMES = sorted(f"r{i}" for i in range(COUNT))
NIGHT = "on-demand/in-two-pools"


@pytest.fixture(scope="module")
def two_pools(site):
    """A second pool without GPUs, its worker, and a deployment there, made as `infra/prefect.yaml` says."""
    light = "nightblend-cpu"
    made = site.installation.run("nightblend", "deploy", "--pool", light, "--gpus", "0")
    assert "limit" not in made
    text = (site.root / "prefect.yaml").read_text()
    text = text.replace("pool: &pool nightblend\n", f"pool: &pool {light}\n")
    text = text.replace("# compute_on:", "compute_on:").replace("name: on-demand\n", "name: in-two-pools\n")
    # What is there is no GPU.
    text = text.replace(
        "    compute_on: compute/compute\n", "    compute_on: compute/compute\n    device: cpu\n"
    )
    file = site.root / "two-pools.yaml"
    file.write_text(text)
    name = ("--name", "in-two-pools")
    site.installation.run("prefect", "--no-prompt", "deploy", *name, "--prefect-file", str(file))
    with site.installation.started("worker-light", "prefect", "worker", "start", "--pool", light):
        yield site


def computing_for(site, day, known=()) -> dict:
    """Wait for a flow run that computes for a date, other than the known ones."""

    def found():
        named = {"name": {"any_": [f"{JOB}-{day}-compute"]}}
        runs = site.post("/flow_runs/filter", flow_runs=named)
        return next((run for run in runs if run["id"] not in known), None)

    return site.wait(found)


def in_the_middle(site, day) -> tuple:
    """Start a night; return its flow run, the one that computes, the run's log, and the halted engine."""
    site.write_day(day, long_counts(COUNT))
    night = site.start(NIGHT, run_date=day.isoformat(), publish=True)
    log, engine = site.halted_in_the_middle(JOB, day)
    return night, computing_for(site, day), log, engine


def test_a_night_in_two_pools_is_cancelled_goes_on_and_is_published(two_pools):
    site, day = two_pools, today() - timedelta(days=64)
    night, computing, log, engine = in_the_middle(site, day)
    assert site.run(night["id"])["work_pool_name"] == "nightblend-cpu"
    assert (computing["work_pool_name"], computing["work_queue_name"]) == ("nightblend", "urgent")
    # The flow run in the other pool holds the run and has the engine.
    process = flow_process(log)
    assert process == process_of(computing["id"])
    assert engine == engine_of(process)
    assert site.get("/v2/concurrency_limits/gpu:nightblend")["active_slots"] == 1

    site.post(f"/flow_runs/{night['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    resume_when_told_to_stop(engine, site.tail)
    assert site.ended(night["id"])["state_type"] == "CANCELLED", site.logs(night["id"])
    ended = site.ended(computing["id"])
    assert ended["state_type"] in {"CANCELLED", "FAILED"}, site.logs(computing["id"])
    assert psutil.wait_procs([engine], timeout=15)[1] == []
    state = log.refresh()
    assert (state.ended.status, state.ended.exit_code, state.holder) == ("stopped", 4, None)
    kept = [part.name for part in state.parts_of("outputs")]
    assert 0 < sum(part.count for part in state.parts_of("outputs")) < COUNT
    assert site.get("/v2/concurrency_limits/gpu:nightblend")["active_slots"] == 0

    again = site.ended(site.start(NIGHT, run_date=day.isoformat(), publish=True)["id"])
    assert again["state_name"] == "Completed", site.logs(again["id"])
    state = log.refresh()
    assert [part.name for part in state.parts_of("outputs")][: len(kept)] == kept
    assert [ended.exit_code for ended in state.endings.values()] == [4, 0]
    assert sorted(site.answers(JOB, day)) == NAMES
    # Each flow run shows its share: the bar and the figures of the night, and where it is computed.
    second = site.ended(computing_for(site, day, {computing["id"]})["id"])
    assert second["state_name"] == "Completed", site.logs(second["id"])
    artifacts = site.artifacts(again["id"])
    assert second["id"] in artifacts[f"compute-{JOB}"]["data"]
    assert artifacts[f"progress-{JOB}"]["data"] == 100
    assert f"{COUNT} outputs" in artifacts[f"night-{JOB}"]["data"]
    assert site.artifacts(second["id"])[f"progress-{JOB}"]["data"] == 100


def test_either_flow_run_may_be_killed(two_pools):
    site, day = two_pools, today() - timedelta(days=65)
    night, computing, log, engine = in_the_middle(site, day)
    process_of(computing["id"]).kill()
    engine.resume()
    assert site.ended(computing["id"])["state_type"] == "CRASHED"
    # The night has crashed with it, and is started again as a whole.
    assert site.ended(night["id"])["state_type"] == "CRASHED", site.logs(night["id"])
    (rerun,) = site.wait(lambda: site.reruns_of(night["id"]))
    assert rerun["work_pool_name"] == "nightblend-cpu"
    second = computing_for(site, day, {computing["id"]})
    # Halted, so that it certainly computes when the next rerun comes.
    _, engine = site.halted_in_the_middle(JOB, day, len(log.refresh().parts_of("outputs")) + 2)
    process_of(rerun["id"]).kill()
    assert site.ended(rerun["id"])["state_type"] == "CRASHED"
    # What computes goes on; the next rerun waits for it and publishes.
    last = site.wait(lambda: [r for r in site.reruns_of(night["id"]) if r["id"] != rerun["id"]])
    waits = f"waits for flow run {second['name']}, which an earlier run of the date has started"
    site.wait(lambda: waits in site.logs(last[0]["id"]))
    engine.resume()
    ended = site.ended(last[0]["id"])
    assert ended["state_name"] == "Completed", site.logs(ended["id"])
    assert site.run(second["id"])["state_name"] == "Completed", site.logs(second["id"])
    assert [end.exit_code for end in log.refresh().endings.values()] == [4, 4, 0]
    assert sorted(site.answers(JOB, day)) == NAMES
    writers = {part.attempt_id for part in log.state.parts_of("outputs")}
    assert writers == {attempt.id for attempt in log.state.attempts[:2]}
