"""`nightblend doctor` on what computes for nights elsewhere, and a night that would wait for itself."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.settings import PREFECT_API_URL

from flows.compute import compute
from flows.deploy.doctor import COMPUTES, check_compute, check_prefect
from flows.nightly import nightly
from flows.parameters.nightly import NightlyParameters
from flows.placement import prefect_pool as compute_runs
from flows.run.prefect_tasks import limit_name
from tasks.base.errors import ConfigurationError

GPU, LIGHT = "doctor-gpu", "doctor-light"


@pytest.fixture
def server(prefect_api, monkeypatch):
    """A client of a server with a pool, and deployments of a night and of what computes there."""
    assert prefect_api is None
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=GPU, type="process"))
        for flow, entrypoint in ((compute, COMPUTES), (nightly, "flows.nightly.nightly")):
            flow_id = client.create_flow(flow)
            client.create_deployment(flow_id, "doctor", entrypoint=entrypoint, work_pool_name=GPU)
        yield client
        client.delete_work_pool(GPU)


def found(name: str, pool: str | None = LIGHT) -> tuple[str, str]:
    check = check_compute(name, pool)
    return check.outcome, f"{check.text}. {check.remedy}"


def test_what_computes_elsewhere_is_looked_at(server):
    assert found("compute/nowhere") == (
        "failed",
        "--compute-on: there is no deployment compute/nowhere. See `prefect deployment ls`",
    )
    outcome, said = found("nightly/doctor")
    assert (outcome, "flows.nightly.nightly" in said) == ("failed", True)
    outcome, said = found("compute/doctor")
    assert (outcome, f"no worker of pool {GPU} is online" in said) == ("failed", True)

    server.send_worker_heartbeat(GPU, "one", heartbeat_interval_seconds=30)
    outcome, said = found("compute/doctor")
    assert (outcome, f"nightblend deploy --pool {GPU}" in said) == ("warning", True)
    server.upsert_global_concurrency_limit_by_name(limit_name(GPU), 2)
    assert found("compute/doctor") == (
        "ok",
        f"compute/doctor is in pool {GPU}; 1 worker of pool {GPU} online; limit gpu:{GPU}: 2 at a time. ",
    )
    assert check_prefect(GPU).outcome == "ok"
    assert check_prefect("nowhere").text == "there is no work pool nowhere"
    outcome, said = found("compute/doctor", GPU)
    assert (outcome, "--limit 1" in said) == ("warning", True)
    server.update_work_pool(GPU, WorkPoolUpdate(concurrency_limit=1))
    outcome, said = found("compute/doctor", GPU)
    assert (outcome, "would wait for itself" in said) == ("failed", True)
    # From a pool of its own a night does not mind.
    assert found("compute/doctor")[0] == "ok"


def test_the_computing_is_not_looked_at_without_a_server(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert check_compute("compute/compute", None).outcome == "skipped"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert check_compute("compute/compute", None).outcome == "failed"


@pytest.mark.parametrize("of", ["pool", "queue"])
def test_a_night_that_would_wait_for_itself_is_refused(server, monkeypatch, tmp_path, caplog, of):
    given = {"job": "triage", "source": "logs", "store": str(tmp_path), "model": "model"}
    night = NightlyParameters(**given, compute_on="compute/doctor", device="cpu")
    monkeypatch.setattr(compute_runs, "current_pool", lambda: GPU)
    monkeypatch.setattr(compute_runs, "current_queue", lambda: "default")
    monkeypatch.setattr(compute_runs, "get_run_logger", lambda: compute_runs.log)
    assert compute_runs.steps_on(night)
    assert "a worker with --limit 1 never starts the second" in caplog.text

    if of == "pool":
        server.update_work_pool(GPU, WorkPoolUpdate(concurrency_limit=1))
    else:
        server.update_work_queue(server.read_work_queue_by_name("default", GPU).id, concurrency_limit=1)
    with pytest.raises(ConfigurationError, match=rf"^--compute-on: {of} .*one run at a time, and this night"):
        compute_runs.steps_on(night)
    # In another pool it is the only one that runs there.
    monkeypatch.setattr(compute_runs, "current_pool", lambda: LIGHT)
    assert compute_runs.steps_on(night)
