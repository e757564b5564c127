"""What no test can start is checked against its schema: compose, Kubernetes, the pools' job templates."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib import import_module
from uuid import uuid4

import kubernetes_validate
import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun

from flows.deploy.pools import KINDS, base_job_template
from tests.support.paths import ROOT

INFRA = ROOT / "infra"


def worker_of(kind: str):
    """Return the kind's class of worker, loaded when needed: collecting must not take seconds of that."""
    places = {
        "process": ("prefect.workers.process", "ProcessWorker"),
        "docker": ("prefect_docker.worker", "DockerWorker"),
        "kubernetes": ("prefect_kubernetes.worker", "KubernetesWorker"),
    }
    module, name = places[kind]
    return getattr(import_module(module), name)


def configuration(kind: str, gpus: int, **variables):
    """What a worker makes of a pool's template for one run."""
    template = base_job_template(kind, gpus, "registry.example.org/nightblend:1")

    async def make():
        # Only blocks and variables would be asked for, and the templates name none.
        client = PrefectClient("http://127.0.0.1:9/api")
        config = worker_of(kind).job_configuration
        return await config.from_template_and_values(template, variables, client=client)

    found = asyncio.run(make())
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="support-triage-2026-11-22")
    found.prepare_for_flow_run(run, flow=Flow(id=run.flow_id, name="nightly", labels={}))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_template_has_its_text(kind):
    template = base_job_template(kind, 1)
    properties = template["variables"]["properties"]
    for name, field in properties.items():
        assert field["title"], name
        assert field["description"].endswith("."), name
    known = set(worker_of(kind).get_default_base_job_template()["variables"]["properties"])
    assert {"env", "command"} <= set(properties) & known
    assert properties["env"]["default"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_kubernetes_job_is_valid_and_asks_for_what_the_engine_needs(gpus):
    manifest = configuration("kubernetes", gpus, env={"AWS_DEFAULT_REGION": "eu-central-1"}).job_manifest
    kubernetes_validate.validate(manifest, "1.33", strict=True)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/nightblend:1"
    assert pod["terminationGracePeriodSeconds"] == 60
    assert manifest["spec"]["ttlSecondsAfterFinished"] == 86400
    assert manifest["spec"]["backoffLimit"] == 0
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    assert bool(pod["tolerations"]) is bool(gpus)
    assert bool(pod["nodeSelector"]) is bool(gpus)


def test_a_docker_run_gets_its_gpu_and_shared_memory():
    found = configuration("docker", 1)
    assert found.container_create_kwargs["shm_size"] == "8g"
    assert found.container_create_kwargs["device_requests"][0]["Capabilities"] == [["gpu"]]
    assert configuration("docker", 0).container_create_kwargs == {}


def test_a_process_is_started_without_the_working_directory_on_its_path():
    assert configuration("process", 1).command == f"{sys.executable} -m prefect.engine"


def test_rbac_is_valid_and_gives_the_runs_no_rights():
    text = (INFRA / "kubernetes" / "rbac.yaml").read_text()
    found = [entry for entry in yaml.safe_load_all(text) if entry]
    for entry in found:
        kubernetes_validate.validate(entry, "1.33", strict=True)
    (binding,) = [entry for entry in found if entry["kind"] == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == ["nightblend-worker"]


def test_compose_is_valid_and_keeps_secrets_out():
    path = INFRA / "compose.yaml"
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    services = yaml.safe_load(path.read_text())["services"]
    assert services["worker"]["stop_grace_period"] == "60s"
    secrets = [
        value
        for service in services.values()
        for name, value in service.get("environment", {}).items()
        if name.endswith(("PASSWORD", "SECRET_ACCESS_KEY"))
    ]
    assert secrets
    assert all(value.startswith("${") for value in secrets)


def test_the_helm_values_start_what_the_pools_expect():
    worker = yaml.safe_load((INFRA / "helm" / "worker-values.yaml").read_text())
    server = yaml.safe_load((INFRA / "helm" / "server-values.yaml").read_text())
    assert worker["worker"]["config"]["type"] == "kubernetes"
    assert worker["serviceAccount"] == {"create": False, "name": "nightblend-worker"}
    names = {entry["name"] for entry in server["server"]["env"]}
    assert "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED" in names
