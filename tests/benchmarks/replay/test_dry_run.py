"""The replays of whole traces run from end to end on tiny sizes, and say that they measured nothing."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.paths import ROOT


def test_a_dry_run_of_the_replays() -> None:
    # Through the operations that a machine without a GPU has, as anywhere outside this folder's tests.
    plain = {name: value for name, value in os.environ.items() if name != "NIGHTBLEND_KERNELS"}
    command = [sys.executable, "-m", "tests.benchmarks.replay.replay_traces", "--dry"]
    plain |= {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False, env=plain
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replay_vs_best_overlap: mean (replayed)" in done.stdout
    assert "replay off from its run" in done.stdout
    assert "missing:" not in done.stdout
