"""The command that measures a GPU runs from end to end on tiny sizes, and says that it measured nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import gpu, gpu_engine, gpu_ops

ATTENTION = (
    "decode, batch 256",
    "decode, batch 8",
    "prefill of 8k",
    "prefill of 2k over 16k",
    "pages of 128",
)
ROOT = Path(__file__).parents[2]


def test_a_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    assert done.stdout.rstrip().endswith("unmeasured: no GPU"), done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing:" not in done.stdout
    for name in (
        *gpu_engine.MODELS,
        "transformers generate_batch",
        "read-only sum",
        "sampling: draw",
        *ATTENTION,
    ):
        assert name in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_results_name_the_device_and_what_failed(tmp_path: Path) -> None:
    report = gpu.Report()
    report.figures |= {"device": "NVIDIA H200", "read_gb_s": 4000.0}
    report.part("good", lambda: ({"matmul_tflops": 700.0}, [gpu_ops.Row("some", 1.0, "GB/s", 0.5, 1e-3)]))
    report.part("bad", lambda: 1 / 0)
    gpu.write(report, tmp_path, 3.0)
    written = json.loads((tmp_path / "gpu-nvidia-h200.json").read_text())
    assert (written["label"], written["device"]) == ("measured", "NVIDIA H200")
    assert (written["read_gb_s"], written["matmul_tflops"]) == (4000.0, 700.0)
    assert written["failed"] == {"bad": "ZeroDivisionError: division by zero"}
    assert {"torch", "triton", "transformers"} <= set(written["versions"])
