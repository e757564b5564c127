"""The command that measures a GPU runs from end to end on tiny sizes, and says that it measured nothing."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.cost.step import NOMINAL, ModelShape, step_cost
from tests.benchmarks import gpu, gpu_engine, gpu_ops, gpu_others, overlap_cascade
from tests.engine.kernels.triton.odd_parts import PARTS

ATTENTION = (
    "decode, batch 256",
    "decode, batch 8",
    "prefill of 8k",
    "prefill of 2k over 16k",
    "pages of 128",
)
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_a_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=580, check=False)
    assert done.stdout.rstrip().endswith("unmeasured: no GPU"), done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing:" not in done.stdout
    for name in (
        *gpu_engine.MODELS,
        "transformers generate_batch",
        "read-only sum",
        "sampling: draw",
        "float32 greedy answers",
        "unmeasured: vLLM",
        *ATTENTION,
    ):
        assert name in done.stdout
    assert list(tmp_path.iterdir()) == []


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


def test_a_dry_run_of_the_replays() -> None:
    # Through the operations that a machine without a GPU has, as anywhere outside this folder's tests.
    plain = {name: value for name, value in os.environ.items() if name != "NIGHTBLEND_KERNELS"}
    command = [sys.executable, "-m", "tests.benchmarks.overlap_replay", "--dry"]
    plain |= {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False, env=plain
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replay_vs_best_overlap: mean (replayed)" in done.stdout
    assert "replay off from its run" in done.stdout
    assert "missing:" not in done.stdout


def test_the_fitted_switch_keeps_cascade_where_it_gains() -> None:
    device, shape = NOMINAL["h200"], ModelShape.of(replace(gpu_engine.LLAMA_8B, layers=1), 2)
    each, kept, constant = shape.kv_bytes_per_token / device.read_bytes, 0.3, 4e-6
    times = {}
    for prefix, suffix, group in itertools.product((512, 4096, 16384), (256, 2048), (8, 64)):
        cell = overlap_cascade.Cell(prefix, suffix, group)
        plain = group * (prefix + suffix) * each
        # A float32 per element of the queries is written and read for each of the group.
        result = 8 * 4096 * group / device.read_bytes
        shared = prefix * (1 + kept * (group - 1)) * each
        times[cell] = overlap_cascade.Times(plain, shared + group * suffix * each + result + constant, 0.0)
    found = overlap_cascade.fit(shape, device, times)
    assert found.shared_read == pytest.approx(kept)
    assert found.shared_seconds == pytest.approx(constant)
    layer = overlap_cascade.Layer(gpu_ops.Bench(torch.device("cpu"), torch.float32, dry=True), 200_000)
    layer.__dict__["cache"] = torch.zeros(200_000 // 16, 1)
    used = {cell: layer.used(cell, step_cost(shape, found)) for cell in times}
    assert all(used[cell] == (found.cascade < found.plain) for cell, found in times.items())
    # One that loses is left out, and with it those of which no more is expected.
    lost = overlap_cascade.Cell(512, 256, 64)
    times[lost] = times[lost]._replace(cascade=2 * times[lost].plain)
    cost = step_cost(shape, overlap_cascade.fit(shape, device, times))
    assert not layer.used(lost, cost)
    assert layer.used(overlap_cascade.Cell(16384, 256, 64), cost)


def test_a_part_that_goes_wrong_loses_no_other(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "START", 1.0)
    monkeypatch.setattr(gpu, "PATIENCE", 30.0)
    monkeypatch.chdir(ROOT)
    report, seen = gpu.Report(), []

    def done() -> None:
        # After every part a file, as on a GPU.
        written = json.loads(gpu.write(report, tmp_path, 3.0).read_text())
        seen.append(set(written["seconds_by_part"]))

    gpu.supervise(
        report,
        PARTS,
        "tests.engine.kernels.triton.odd_parts:PARTS",
        tmp_path,
        dry=True,
        limit=30.0,
        done=done,
    )
    assert [len(names) for names in seen] == list(range(1, 9))
    assert report.figures["sum"] == 2
    assert sorted(report.failed) == ["breaks", "dies", "hangs", "raises"]
    assert "illegal memory access" in report.failed["breaks"]["error"]
    assert report.failed["raises"]["error"] == "ZeroDivisionError: one by zero"
    assert "in raises" in report.failed["raises"]["traceback"]
    assert report.failed["dies"]["error"] == "the process ended with code -9"
    assert "took longer" in report.failed["hangs"]["error"]
    assert report.unmeasured == {"absent": "some engine is not installed"}
    assert report.wrong() == ["not a number", "far off"]
    written = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert (written["label"], written["complete"], written["wrong"]) == ("measured", False, report.wrong())
    assert {"torch", "triton", "transformers"} <= set(written["versions"])


def test_a_part_measured_again_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    report = gpu.Report()
    row = gpu_ops.Row("some", 1.0, "GB/s")._asdict() | {"part": "attention"}
    empty = {"figures": {}, "rows": [], "seconds": 1.0}
    report.add({**empty, "name": "vLLM", "failed": {"error": "died"}})
    report.add({**empty, "name": "attention", "figures": {"device": "NVIDIA H200", "a": 1}, "rows": [row]})
    again = gpu.Report()
    again.load(gpu.write(report, tmp_path, 3.0))
    again.add({**empty, "name": "vLLM", "unmeasured": "not installed"})
    again.add({**empty, "name": "attention", "figures": {"a": 2}, "rows": [row | {"value": 2.0}]})
    written = json.loads(gpu.write(again, tmp_path, 3.0).read_text())
    assert (written["device"], written["failed"], written["figures"]["a"]) == ("NVIDIA H200", {}, 2)
    assert [kept["value"] for kept in written["rows"]] == [2.0]
    assert written["unmeasured"] == {"vLLM": "not installed"}
    assert "speedup_vs_vllm" not in written["missing"]
    assert "read_gb_s" in written["missing"]


def test_vllm_gets_the_requests_of_our_own_run(monkeypatch) -> None:
    """With a stand-in of the interface that is used; vLLM itself needs a GPU."""
    calls = {}

    class Model:
        def __init__(self, **settings):
            calls["settings"] = settings
            calls["config"] = json.loads((Path(settings["model"]) / "config.json").read_text())

        def generate(self, prompts, asked, use_tqdm):
            assert not use_tqdm
            asked = asked if isinstance(asked, list) else [asked] * len(prompts)
            calls["prompts"] = [p["prompt_token_ids"] for p in prompts]
            ids = [types.SimpleNamespace(token_ids=[0] * s.max_tokens) for s in asked]
            return [types.SimpleNamespace(outputs=[i]) for i in ids]

    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = Model, types.SimpleNamespace
    module.__spec__ = types.SimpleNamespace(loader=None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    bench = gpu_ops.Bench(torch.device("cpu"), torch.float32, dry=True)
    with pytest.raises(gpu_ops.Unmeasured, match="missing"):
        gpu_others.against_vllm(bench, {})
    figures = {"models": {"Llama-3.1-8B shape": {"mixed_seconds": 4.0}}}
    found, rows = gpu_others.against_vllm(bench, figures)
    assert found["speedup_vs_vllm"] == found["vllm_seconds"] / 4.0
    assert len(rows) == 3
    prompts, _ = gpu_engine.mixed_requests(bench)
    tokens, start = gpu_engine.random_tokens(prompts, 128)
    assert calls["prompts"] == [tokens[a:b].tolist() for a, b in itertools.pairwise(start)]
    assert calls["settings"]["enable_prefix_caching"] is True
    assert calls["settings"]["max_num_seqs"] >= 512
    assert calls["config"]["architectures"] == ["LlamaForCausalLM"]
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(gpu_ops.Unmeasured, match="not installed"):
        gpu_others.against_vllm(bench, figures)
