"""The command that measures a GPU runs from end to end on tiny sizes, and says that it measured nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.cost import NOMINAL, ModelShape, step_cost, step_seconds
from engine.runtime.core import StepSample
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


def test_calibration_finds_the_rates_behind_step_times() -> None:
    shape = ModelShape.of(gpu_engine.LLAMA_8B, 2)
    truth = replace(NOMINAL["h100"], gemm=())
    cost = step_cost(shape, truth)
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(40):
        tokens, kv = int(rng.integers(1, 4000)), int(rng.integers(0, 400_000))
        seconds = step_seconds(cost, tokens, 50, 900 * tokens, kv)
        counts = dict.fromkeys(StepSample.__dataclass_fields__, 0)
        known = {"tokens": tokens, "samples": 50, "attended_tokens": 900 * tokens, "kv_tokens_read": kv}
        steps.append(StepSample(**{**counts, **known, "seconds": seconds}))
    fitted = gpu_engine.calibrate(steps[::2], shape, NOMINAL["a100"])
    assert fitted.flops == pytest.approx(truth.flops, rel=1e-6)
    assert fitted.read_bytes == pytest.approx(truth.read_bytes, rel=1e-6)
    assert max(gpu_engine.step_errors(steps[1::2], shape, fitted)) < 1e-6
    assert min(gpu_engine.step_errors(steps[1::2], shape, NOMINAL["a100"])) > 0.1
