"""What is found out about SGLang before any work, its options, and what is refused for it."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from engine.backends.sglang.examine import DIFFERENT, NOT_YET, UNTESTED, examine
from engine.backends.sglang.look import _architectures, _arguments
from engine.backends.sglang.options import SglangOptions, parse_options
from engine.errors import OptionError
from engine.runtime.sample.settings import Sampling
from tasks.infer.backends.engines import refusal_of
from tasks.operations.doctor import Asked, check_night
from tasks.requests.sampling import SamplingDefaults
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = {
    "python": "3.12.1",
    "distribution": "sglang",
    "version": "0.5.23",
    "missing": [],
    "grammars": "1.7.6",
    "arguments": ["enable_deterministic_inference", "tp_size"],
    "architectures": ["LlamaForCausalLM"],
}


def looked(folder: Path, *options: str, on_cpu: bool = False, **changed):
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(KNOWN | changed)}'\n")
    python.chmod(0o755)
    return examine(parse_options(options), str(python), DEMO_MODEL, on_cpu=on_cpu)


def test_version_and_arguments_enter_the_version_of_the_engine(tmp_path: Path) -> None:
    facts = looked(tmp_path, "tp-size=2", "scheduling=plan", "pacing=false")
    assert facts.answer_version == ["sglang", "sglang 0.5.23 tp_size=2"]
    assert (facts.unsupported, facts.capabilities.seeded) == ((*NOT_YET, *DIFFERENT, "seed"), False)
    assert (facts.capabilities.exact_hits, facts.capabilities.logprobs) == (True, True)
    # It schedules by itself, and tells nothing of its steps.
    assert (facts.capabilities.paced, facts.capabilities.steps) == (False, False)
    assert SglangOptions.of_job(facts.options).arguments == {"tp_size": 2}
    assert {*NOT_YET, *DIFFERENT} <= {field.name for field in fields(Sampling)} | {"tools"}
    assert facts.capabilities.structured


def test_seeds_are_honoured_where_it_is_deterministic(tmp_path: Path) -> None:
    facts = looked(tmp_path, "enable_deterministic_inference=true")
    assert (facts.unsupported, facts.capabilities.seeded) == ((*NOT_YET, *DIFFERENT), True)


@pytest.mark.parametrize("version", [None, "1.6.9"])
def test_without_the_library_of_constraints_they_are_refused(tmp_path: Path, version: str | None) -> None:
    facts = looked(tmp_path, grammars=version)
    assert (facts.capabilities.structured, "constraint" in facts.unsupported) == (False, True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"distribution": None, "version": None}, "--engine-python: .* has no SGLang; name the"),
        ({"version": "0.5.9"}, r"--engine-python: .* has sglang 0\.5\.9, which is too old; install SGLang 0"),
        ({"missing": ["numba"]}, "--engine-python: .* has no numba; install"),
        ({"architectures": ["GPT2LMHeadModel"]}, "--model: sglang .* does not know LlamaForCausalLM"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said) as found:
        looked(tmp_path, **changed)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("scheduling=ours", "scheduling: 'ours' is unknown; use auto, simulated, plan"),
        ("enable_mixed_chunk=false", "enable_mixed_chunk: is set by the night itself; leave it out"),
        ("schedule-policy=lpm", "schedule_policy: is set by the night itself; leave it out"),
        ("max_total_tokens=5", "max_total_tokens: is set by the night itself; use --kv-tokens"),
        ("tp_size", "not of the form KEY=VALUE; give fields of SGLang's ServerArgs"),
    ],
)
def test_options_that_are_wrong(option: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_options([option])


def test_arguments_and_models_are_read_from_files(tmp_path: Path) -> None:
    groups = tmp_path / "srt" / "arg_groups" / "fields"
    models = tmp_path / "srt" / "models"
    groups.mkdir(parents=True)
    models.mkdir()
    (groups / "a.py").write_text("class A:\n    tp_size: int = 1\n    _own: int = 0\n")
    (groups / "b.py").write_text("class B(S):\n    dtype: A[str, 'precision'] = 'auto'\n")
    (models / "one.py").write_text("class OneForCausalLM: ...\nEntryClass = OneForCausalLM\n")
    (models / "two.py").write_text("EntryClass: list = [TwoForCausalLM, TwoHelper]\nx = ThreeForCausalLM\n")
    (models / "none.py").write_text("class FourForCausalLM: ...\n")
    assert _arguments(tmp_path) == ["dtype", "tp_size"]
    assert _architectures(tmp_path) == ["OneForCausalLM", "TwoForCausalLM"]


def row(**sampling) -> dict:
    columns = {"settings_json": None, "max_tokens": None, "token_ids": None, "messages_json": None}
    return {"sampling": sampling, **columns}


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"seed": 4, "temperature": 1.0}, "seed"),
        ({"seed": 4, "temperature": 0.0}, None),
        ({"ignore_eos": True, "stop_token_ids": [5]}, "stop_token_ids"),
        ({"ignore_eos": True}, None),
        ({"stop_token_ids": [5], "ignore_eos": False}, None),
        ({"logprobs": 2}, None),
        ({"min_tokens": 3}, "min_tokens"),
        ({"logit_bias": "[[5,-1.0]]"}, None),
        ({"min_p": 0.2, "temperature": 1.0}, None),
        ({"min_p": 0.2, "temperature": 1.0, "top_p": 0.9}, "min_p"),
        ({"min_p": 0.2, "temperature": 0.0, "top_p": 0.9}, None),
        ({"constraint": '{"regex":"a"}'}, None),
        ({"constraint": '{"regex":"a"}', "logprobs": 2}, "logprobs"),
    ],
)
def test_what_it_does_not_honour_is_refused_by_name(
    tmp_path: Path, sampling: dict, field: str | None
) -> None:
    found = refusal_of(looked(tmp_path), SamplingDefaults())(row(**sampling))
    assert (found and found.field) == field


def test_the_doctor_says_that_it_is_untested_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(tmp_path)
    asked = Asked(
        store=str(tmp_path / "store"),
        model=str(DEMO_MODEL),
        engine="sglang",
        device="cpu",
        engine_python=str(tmp_path / "python"),
    )
    assert {check.name: check.outcome for check in check_night(asked)}["engine"] == "ok"
    monkeypatch.setattr("tasks.operations.doctor.find_device", lambda _: "cuda")
    monkeypatch.setattr("tasks.operations.doctor.find_dtype", lambda *_: "bfloat16")
    (engine,) = (check for check in check_night(asked) if check.name == "engine")
    assert engine.outcome == "warning"
    assert engine.text.endswith(f"; it {UNTESTED}")
