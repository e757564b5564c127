"""The demo works the engine: it stops by itself, lengths vary, prefixes are given up, answers are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = "150"


def run_demo(folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(
        [sys.executable, "infra/demo/demo.py", "--folder", str(folder), "--requests", REQUESTS],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_works_the_engine_and_works_twice(tmp_path):
    said = run_demo(tmp_path / "demo")
    assert "How many answers are right" in said
    (path,) = (tmp_path / "demo" / "store").glob("demo/published/*/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["requests"] == summary["outputs"] + summary["errors"]
    assert summary["finish_reasons"]["stop"] >= 0.3 * summary["outputs"]
    lengths = [load["output_lengths"] for load in summary["workloads"].values() if load["outputs"]]
    assert max(length["variation"] for length in lengths) > 0.5
    assert summary["evicted_pages"] > 0

    answers = json.loads((tmp_path / "demo" / "answers.json").read_text())
    greedy = {key: known["answer"] for key, known in answers.items() if known["sampled"] == "no"}
    right = 0
    for line in (path.parent / "output.jsonl").read_text().splitlines():
        row = json.loads(line)
        choice = row["response"]["body"]["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        right += greedy.get(row["custom_id"]) == text.strip()
    assert right >= 0.9 * len(greedy)

    assert "nothing was computed" in run_demo(tmp_path / "demo")
