"""What becomes of the parts of the GPU benchmark: those that go wrong, those measured again, vLLM's."""

from __future__ import annotations

import itertools
import json
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.benchmarks.gpu import engine, others, supervise
from tests.benchmarks.gpu.bench import Bench, Row, Unmeasured
from tests.benchmarks.gpu.odd_parts import PARTS
from tests.benchmarks.gpu.parts import REQUIRED
from tests.benchmarks.gpu.report import Report, write
from tests.support.paths import ROOT


def test_a_part_that_goes_wrong_loses_no_other(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(supervise, "START", 1.0)
    monkeypatch.setattr(supervise, "PATIENCE", 30.0)
    monkeypatch.chdir(ROOT)
    report, seen = Report(REQUIRED), []

    def done() -> None:
        # After every part a file, as on a GPU.
        written = json.loads(write(report, tmp_path, 3.0).read_text())
        seen.append(set(written["seconds_by_part"]))

    supervise.supervise(
        report,
        PARTS,
        "tests.benchmarks.gpu.odd_parts:PARTS",
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
    report = Report(REQUIRED)
    row = Row("some", 1.0, "GB/s")._asdict() | {"part": "attention"}
    empty = {"figures": {}, "rows": [], "seconds": 1.0}
    report.add({**empty, "name": "vLLM", "failed": {"error": "died"}})
    report.add({**empty, "name": "attention", "figures": {"device": "NVIDIA H200", "a": 1}, "rows": [row]})
    again = Report(REQUIRED)
    again.load(write(report, tmp_path, 3.0))
    again.add({**empty, "name": "vLLM", "unmeasured": "not installed"})
    again.add({**empty, "name": "attention", "figures": {"a": 2}, "rows": [row | {"value": 2.0}]})
    written = json.loads(write(again, tmp_path, 3.0).read_text())
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
    bench = Bench(torch.device("cpu"), torch.float32, dry=True)
    with pytest.raises(Unmeasured, match="missing"):
        others.against_vllm(bench, {})
    figures = {"models": {"Llama-3.1-8B shape": {"mixed_seconds": 4.0}}}
    found, rows = others.against_vllm(bench, figures)
    assert found["speedup_vs_vllm"] == found["vllm_seconds"] / 4.0
    assert len(rows) == 3
    prompts, _ = engine.mixed_requests(bench)
    tokens, start = engine.random_tokens(prompts, 128)
    assert calls["prompts"] == [tokens[a:b].tolist() for a, b in itertools.pairwise(start)]
    assert calls["settings"]["enable_prefix_caching"] is True
    assert calls["settings"]["max_num_seqs"] >= 512
    assert calls["config"]["architectures"] == ["LlamaForCausalLM"]
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(Unmeasured, match="not installed"):
        others.against_vllm(bench, figures)
