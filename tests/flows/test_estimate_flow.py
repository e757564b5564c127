"""The estimate as a Prefect flow: its result, its artifacts, its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client

from flows.estimate import estimate
from flows.estimate_parameters import EstimateParameters

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("prefect_api")
def test_the_flow_leaves_artifacts_and_a_page(tmp_path: Path) -> None:
    log, page = tmp_path / "day.csv", tmp_path / "estimate.html"
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "XXX,700,40\nXXX,40,400\n" * 40)
    result = estimate(
        EstimateParameters.parse(
            {"source": str(log), "model": "llama-3.1-8b", "gpu": "h200", "max_gpus": 1, "out": str(page)}
        )
    )
    (machine,) = result["machines"]
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert "h200" in found["estimate-llama-3-1-8b"].data
    assert "simulated" in found["estimate-llama-3-1-8b"].data
    assert found["estimate-llama-3-1-8b-orders"].data.count("tokens_per_second") == len(machine["orders"])
    assert "<svg" in page.read_text()
