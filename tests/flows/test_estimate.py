"""The estimate as a Prefect flow: its result, its artifacts, its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_entrypoint

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FILE = ROOT / "infra" / "prefect.yaml"


@pytest.mark.usefixtures("prefect_api")
def test_the_deployed_flow_leaves_artifacts_and_a_page(tmp_path: Path) -> None:
    log, page = tmp_path / "day.csv", tmp_path / "estimate.html"
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "XXX,700,40\nXXX,40,400\n" * 40)
    # As a worker does: the flow by its entrypoint, the deployment's parameters under those of the form.
    (deployment,) = (d for d in yaml.safe_load(FILE.read_text())["deployments"] if d["name"] == "estimate")
    asked = {"source": str(log), "gpu": "h200", "max_gpus": 1, "out": str(page)}
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    result = flow(parameters=deployment["parameters"]["parameters"] | asked)
    (machine,) = result["machines"]
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert "h200" in found["estimate-llama-3-1-8b"].data
    assert "simulated" in found["estimate-llama-3-1-8b"].data
    assert found["estimate-llama-3-1-8b-orders"].data.count("tokens_per_second") == len(machine["orders"])
    assert "<svg" in page.read_text()
