"""Planned against actual over past runs, and what an estimate makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.profiles import DeviceProfile, write_profile
from flows.cli import main
from flows.parameters.estimate import EstimateParameters
from flows.parameters.to_request import estimate_request
from flows.run.sequence import run_night
from tasks.base.errors import ConfigurationError
from tasks.estimate.estimate import estimate
from tasks.estimate.trust import corrections_of, past_errors, past_lengths, time_factor
from tasks.plan.prediction import LEAST, profile_digest
from tests.support.demo_nights import batch_line, night_request, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = LEAST + 4
PROFILE = DeviceProfile("cpu", "measured", 1e11, 1e10, None, None, overlaps=False, step_seconds=1e-3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one published night, planned with `PROFILE`; logs and profile lie beside it."""
    root = tmp_path_factory.mktemp("trust")
    lines = [
        batch_line(f"c{i}", f"Count to {i}.", max_tokens=4 + i % 8, metadata={"workload": "count"})
        for i in range(REQUESTS)
    ]
    write_lines(root / "logs", "day.jsonl", lines)
    write_profile(PROFILE, root / "cpu.json")
    run_night(night_request(root, device_profile=PROFILE, lengths="fixed"))
    return root / "store"


def test_a_run_stores_what_was_planned_and_what_came(store: Path) -> None:
    (run,) = past_errors(str(store), "t")["runs"]
    assert run["counts"], run["why"]
    assert run["profile"] == profile_digest(PROFILE)
    total = run["total"]
    assert total["planned"] > 0
    assert total["error"] == pytest.approx(total["actual"] / total["planned"] - 1)
    assert run["overhead_seconds"] >= 0
    lengths = run["lengths"]
    # Half of each limit.
    assert lengths["planned"] == pytest.approx(sum((4 + i % 8) / 2 for i in range(REQUESTS)))
    assert lengths["actual"] == sum(past_lengths(str(store), "t")["count"])
    assert run["steps"]["p50"] <= run["steps"]["p95"]


def test_the_estimate_applies_what_the_run_taught(store: Path) -> None:
    asked = {
        "source": str(store.parent / "logs"),
        "model": str(DEMO_MODEL),
        "device_profile": str(store.parent / "cpu.json"),
        "max_gpus": 1,
    }
    found = estimate(
        estimate_request(EstimateParameters.parse(asked | {"store": str(store), "job": "t"})), told=print
    )
    (machine,), (run,) = found["machines"], past_errors(str(store), "t")["runs"]
    factor = run["steps"]["factor"]
    assert found["corrections"]["cpu"]["factor"] == pytest.approx(factor)
    seconds = machine["ours"]["seconds"] * factor + run["overhead_seconds"]
    assert machine["ours"]["corrected_seconds"] == pytest.approx(seconds)
    # The logs have no lengths; the run has.
    assert found["requests"]["length_source"] == "those of earlier runs"
    assert any("corrected by 1 past runs" in text for text in found["assumptions"])
    with pytest.raises(ConfigurationError, match="--output-tokens"):
        estimate(estimate_request(EstimateParameters.parse(asked)))


def test_the_same_plan_takes_the_same_time_in_estimate_and_prediction(store: Path) -> None:
    """What `trust` compares with is what the estimate says: the correction fits both."""
    log = store.parent / "lengths.csv"
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "XXX,40,8\n" * 12)
    found = estimate(
        estimate_request(
            EstimateParameters.parse(
                {
                    "source": str(log),
                    "model": str(DEMO_MODEL),
                    "device_profile": str(store.parent / "cpu.json"),
                    "max_gpus": 1,
                }
            )
        )
    )
    ours = found["machines"][0]["ours"]
    # One step for all prompts, then a step per token of the answers.
    assert ours["seconds"] >= 8 * PROFILE.step_seconds


def test_a_few_requests_are_not_predicted(tmp_path: Path) -> None:
    write_lines(tmp_path / "logs", "day.jsonl", [batch_line("a", "Hello.", max_tokens=2)])
    run_night(night_request(tmp_path, device_profile=PROFILE))
    (run,) = past_errors(str(tmp_path / "store"), "t")["runs"]
    assert (run["counts"], run["why"], run["total"]) == (False, "no duration was predicted", None)
    assert corrections_of([run], PROFILE).runs == 0


def run_of(factor: float, profile: DeviceProfile = PROFILE, **more: object) -> dict:
    return {"profile": profile_digest(profile), "steps": {"factor": factor}, "overhead_seconds": 4.0} | more


def test_corrections_take_the_median_of_runs_with_steps_of_that_profile() -> None:
    runs = [
        run_of(2.0),
        run_of(2.2),
        run_of(2.1),
        run_of(9.0, steps=None),
        run_of(9.0, overhead_seconds=None),
    ]
    runs.append(run_of(0.5, replace(PROFILE, flops=2e11)))
    found = corrections_of(runs, PROFILE)
    assert (found.factor, found.runs, found.overhead_seconds) == (2.1, 3, 4.0)
    assert found.error == pytest.approx(0.05)
    assert corrections_of(runs[:1], PROFILE).error == pytest.approx(0.1)
    assert corrections_of([], PROFILE).factor == 1.0


@given(st.lists(st.floats(1e-4, 1.0), min_size=3, max_size=40), st.floats(0.1, 10.0))
def test_a_pause_does_not_move_the_factor(modelled: list[float], factor: float) -> None:
    expected = np.array([*modelled, 1e-5])
    actual = expected * factor
    assert time_factor(actual, expected) == pytest.approx(factor)
    # Something is compiled in a short step.
    actual[-1] = 60.0
    assert time_factor(actual, expected) == pytest.approx(factor)


def test_the_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trust", "--store", str(store), "--job", "t", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["run_date"] == date(2026, 11, 22).isoformat()
    assert main(["trust", "--store", str(store), "--job", "t"]) == 0
    assert "measured against planned" in capsys.readouterr().out
    assert main(["trust", "--store", str(store), "--job", "nobody"]) == 2
    assert "no published run" in capsys.readouterr().err
