"""What the deploy step makes, and what the form says to wrong parameters."""

from __future__ import annotations

from datetime import date

import pytest

from tests.deployed.site_of_tests import JOB


def test_the_file_is_deployed_as_it_is_written(deployed_as_written):
    for name in ("nightly/nightly", "on-demand/on-demand", "recover/recover", "maintain/maintain"):
        assert f"Deployment '{name}' successfully created" in deployed_as_written


def test_deploying_makes_pool_queues_limit_and_automations(site):
    pool = site.get("/work_pools/nightblend")
    assert pool["type"] == "process"
    variables = pool["base_job_template"]["variables"]["properties"]
    assert variables["env"]["default"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    queues = site.post("/work_pools/nightblend/queues/filter")
    order = [
        queue["name"] for queue in sorted(queues, key=lambda q: q["priority"]) if queue["name"] != "default"
    ]
    assert order == ["urgent", "nightly", "backfill"]
    limit = site.get("/v2/concurrency_limits/gpu:nightblend")
    assert (limit["limit"], limit["active"]) == (1, True)
    automations = {found["name"]: found for found in site.post("/automations/filter")}
    zombie = automations["nightblend: silent runs have crashed"]
    assert zombie["trigger"]["within"] == 120
    assert "prefect.flow-run.CompletedWithErrors" in zombie["trigger"]["expect"]
    told = ("a night is late", "a date is overdue", "nothing was published", "a promise is at risk")
    for name in told:
        assert automations[f"nightblend: {name}"]["enabled"]
    rerun = automations["nightblend: crashed runs are started again"]
    assert rerun["actions"][0]["deployment_id"] == site.deployment("recover/recover")["id"]


def test_nightly_has_its_schedule_in_the_sites_timezone(site):
    nightly = site.deployment("nightly/nightly")
    schedule = nightly["schedules"][0]["schedule"]
    assert schedule["timezone"] == "Europe/Berlin"
    assert nightly["entrypoint"] == "flows.nightly.nightly"
    options = nightly["concurrency_options"]
    assert (options["collision_strategy"], options["grace_period_seconds"]) == ("ENQUEUE", 600)
    assert nightly["work_queue_name"] == "nightly"


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"policy": "fastest"}, "policy"), ({"job": "Two Words"}, "job"), ({"run_date": None}, "run_date")],
)
def test_the_form_refuses_a_wrong_value_by_its_field(site, changed, field):
    deployment = site.deployment("on-demand/on-demand")
    parameters = {
        "parameters": {**deployment["parameters"]["parameters"], "run_date": "2026-11-22", **changed}
    }
    path = f"/deployments/{deployment['id']}/create_flow_run"
    answer = site.api.post(path, json={"parameters": parameters, "state": {"type": "SCHEDULED"}})
    assert answer.status_code in {409, 422}
    assert field in answer.text


def test_a_bad_combination_ends_the_run_before_any_work(site):
    day = date(2026, 1, 1)
    run = site.ended(site.start("on-demand/on-demand", run_date=str(day), device="cuda:7")["id"])
    assert run["state_type"] == "FAILED"
    assert "--device: cuda:7 cannot be used" in run["state"]["message"]
    assert "use --device cpu or auto" in run["state"]["message"]
    assert site.run_logs(JOB, day) == []
