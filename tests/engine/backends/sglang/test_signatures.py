"""What we ask of SGLang is there, in the files of the real package; nothing of it is imported.

`make test-sglang` installs it.
"""

from __future__ import annotations

import ast
import json
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.backends.foreign.look import fields_of
from engine.backends.interpreter import command_for, environment_for
from engine.backends.sglang.examine import examine
from engine.backends.sglang.items import request_fields
from engine.backends.sglang.load import arguments_of
from engine.backends.sglang.options import SEEDED, TAKEN, parse_options
from engine.errors import OptionError
from engine.job.format import JobSettings
from engine.runtime.sample.settings import Sampling
from tests.servers.sglang_cpu import INSTALLED, PYTHON, WHY
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not INSTALLED.exists(), reason=WHY)


@pytest.fixture(name="found", scope="module")
def _found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("look")
    command = command_for(str(PYTHON), "engine.backends.sglang.look")
    environment = environment_for(str(PYTHON), folder)
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(name="package", scope="module")
def _package() -> Path:
    (folder,) = PYTHON.parents[1].glob("lib/python3.*/site-packages/sglang")
    return folder


def test_its_arguments_and_models_are_known(found: dict) -> None:
    assert (found["distribution"], found["version"], found["missing"]) == ("sglang", "0.5.23", [])
    own = arguments_of(JobSettings("m"), "cuda:1", "bfloat16", "auto", 4096, 512)
    own |= arguments_of(JobSettings("m"), "cpu", "float32", "auto", None, 512)
    assert {*own, *TAKEN, SEEDED, "tp_size"} <= set(found["arguments"])
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"} <= set(found["architectures"])
    assert "GPTNothingForCausalLM" not in found["architectures"]


def test_it_takes_what_we_send(package: Path) -> None:
    params = ast.parse((package / "srt" / "sampling" / "sampling_params.py").read_text())
    (generate,) = (
        node
        for node in ast.walk(ast.parse((package / "srt" / "entrypoints" / "engine.py").read_text()))
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "async_generate"
    )
    job = SimpleNamespace(
        tokens=np.array([5], np.int32), offsets=np.array([0, 1]), sampling=[Sampling(4, logprobs=2)]
    )
    fields = request_fields(job, 0, (2,), "0")
    assert set(fields["sampling_params"]) <= set(fields_of(params, "SamplingParams"))
    assert set(fields) <= {one.arg for one in generate.args.args}


def test_an_argument_that_it_does_not_have_is_told_before_any_work() -> None:
    with pytest.raises(OptionError, match=r"--engine-option tp: sglang 0\.5\.23 has no such argument"):
        examine(parse_options(["tp=2"]), str(PYTHON), DEMO_MODEL, on_cpu=True)
    facts = examine(parse_options(["tp_size=2"]), str(PYTHON), DEMO_MODEL, on_cpu=True)
    assert facts.version == "sglang 0.5.23 tp_size=2"
