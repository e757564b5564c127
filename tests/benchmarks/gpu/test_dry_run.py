"""The command that measures a GPU runs from end to end on tiny sizes, and says that it measured nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.gpu.engine import MODELS
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

ATTENTION = (
    "decode, batch 256",
    "decode, batch 8",
    "prefill of 8k",
    "prefill of 2k over 16k",
    "pages of 128",
)


@pytest.mark.timeout(600)
def test_a_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=580, check=False)
    assert done.stdout.rstrip().endswith("unmeasured: no GPU"), done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing:" not in done.stdout
    for name in (
        *MODELS,
        "transformers generate_batch",
        "read-only sum",
        "sampling: draw",
        "float32 greedy answers",
        "unmeasured: vLLM",
        *ATTENTION,
    ):
        assert name in done.stdout
    assert list(tmp_path.iterdir()) == []
