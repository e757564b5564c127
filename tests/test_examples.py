"""The examples run as they are written, each in a process of its own, on the demo's model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
LIMIT_S = 240

pytestmark = pytest.mark.slow


def run(command: list[str | Path], folder: Path) -> str:
    """Return what an example says on stdout; it may use the commands and packages of this environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    there = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        # A busy machine takes longer than Prefect waits by itself.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=clean | there,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def own_logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The night of `own_logs.sh`: its folder, and what was said."""
    folder = tmp_path_factory.mktemp("own_logs")
    return folder, run([EXAMPLES / "own_logs.sh", folder], folder)


def answers(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text().splitlines())
    return {row["custom_id"]: row["response"]["body"]["choices"][0]["text"].strip() for row in rows}


def test_own_logs(own_logs: tuple[Path, str]) -> None:
    folder, said = own_logs
    (output,) = folder.glob("store/tickets/published/run_date=2026-11-22/*/output.jsonl")
    assert answers(output) == {
        "T-1": "3 4 5 6 7 8 9",
        "T-2": "17 18 19 20 21",
        "T-3": "100 101 102 103 104 105 106 107 108",
        "T-4": "3 4 5 6 7 8 9",
    }
    assert said.endswith(output.read_text())
    summary = json.loads(output.with_name("summary.json").read_text())
    assert (summary["quarantined"], summary["errors"]) == (1, 1)
    # Lines that are no requests have no workload of their own.
    assert set(summary["workloads"]) == {"billing", "returns", "default"}


def test_read_results(own_logs: tuple[Path, str]) -> None:
    folder, _ = own_logs
    said = run([sys.executable, EXAMPLES / "read_results.py", folder / "store"], folder)
    assert "4 answers" in said
    for table in ("billing", "returns", "2026-11-22"):
        assert table in said


def test_own_model(tmp_path: Path) -> None:
    said = run([sys.executable, EXAMPLES / "own_model.py", tmp_path], tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert name in said
    (summary,) = tmp_path.glob("store/own-model/published/*/*/summary.json")
    assert json.loads(summary.read_text())["outputs"] == 6


def test_in_a_flow(tmp_path: Path) -> None:
    said = run([sys.executable, EXAMPLES / "in_a_flow.py", tmp_path], tmp_path)
    # Five answers of six numbers each.
    assert "words in the answers: 30" in said


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = json.loads((EXAMPLES / "night.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    check = "\nassert answers.height == night.outputs == 8, night\nassert not answers['text'].is_null().any()"
    run([sys.executable, "-c", code + check], tmp_path)
    assert (tmp_path / "notebook-night" / "store" / "notebook").is_dir()
