"""The measurement of overlap runs from end to end on tiny sizes, and says that it measured nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_a_dry_run_of_the_overlap_measurement(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.overlap", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (
        "decode attention on 132 blocks",
        "64 SMs left out",
        "k-limited and carveout 64, captured",
        "48/20/2",
    ):
        assert name in done.stdout
    assert "missing:" not in done.stdout
    assert "interference with 60% attention" in done.stdout
    assert "predicted gain of the blend with overlap" in done.stdout
    assert "error 0.0e+00" in done.stdout
    assert list(tmp_path.iterdir()) == []
