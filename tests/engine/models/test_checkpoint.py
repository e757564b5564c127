"""A model whose files are damaged is told of in one line, without reading its tensors."""

from __future__ import annotations

import json
import shutil

import pytest

from engine.errors import EngineError
from engine.models.checkpoint import check_weights
from engine.models.config import load_config
from tests.support.paths import DEMO_MODEL


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(DEMO_MODEL, tmp_path / "model")


def weights(model):
    (path,) = model.glob("*.safetensors")
    return path


def test_a_whole_model_is_fine(model):
    check_weights(model)
    load_config(model)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_weights_that_were_not_copied_whole_are_named(model, kept):
    path = weights(model)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(EngineError, match=r"--model: .*\.safetensors .*copy or download it again"):
        check_weights(model)


def test_a_shard_that_is_missing_is_named(model):
    named = {"weight_map": {"a": weights(model).name, "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(named))
    with pytest.raises(EngineError, match=r"model-00002-of-00002\.safetensors is named by .* but missing"):
        check_weights(model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"architectures": [', "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"architectures": ["LlamaForCausalLM"]}', "has no 'num_attention_heads'"),
    ],
)
def test_a_broken_config_is_one_line(model, text, said):
    (model / "config.json").write_text(text)
    with pytest.raises(EngineError, match=r"--model: .*config\.json " + said):
        load_config(model)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hidden_size": "many"}, "hidden_size = 'many' is no number above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0 is no number above 0"),
        ({"eos_token_id": "</s>"}, "has a setting of another type"),
    ],
)
def test_a_setting_of_the_wrong_type_is_one_line(model, wrong, said):
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(raw | wrong))
    (model / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(EngineError, match=r"--model: .*config\.json.* " + said):
        load_config(model)
