"""What a model's folder says of its embeddings, and decoders that are stored by themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import EngineError, UnsupportedModelError
from engine.models.config import load_config, parse_config
from engine.models.decoder import Decoder
from engine.models.pooling import Pooling, load_pooling
from engine.models.weights import load_weights
from engine.runtime.sample.settings import Sampling
from tests.support.embedding_models import add_modules, expected
from tests.support.engines import run_engine
from tests.support.models import reference_model

if TYPE_CHECKING:
    from pathlib import Path


def test_poolings_are_read(tmp_path: Path) -> None:
    assert load_pooling(tmp_path) is None
    assert load_pooling(add_modules(tmp_path)) == Pooling("last", normalised=True)
    assert load_pooling(add_modules(tmp_path, "mean")) == Pooling("mean", normalised=True)
    plain = add_modules(tmp_path, "mean", "Transformer", "Pooling")
    assert load_pooling(plain) == Pooling("mean", normalised=False)
    # As later releases write it.
    assert load_pooling(add_modules(tmp_path, {"pooling_mode": "lasttoken"})) == Pooling("last")
    assert load_pooling(add_modules(tmp_path, {"pooling_mode": ["mean"]})) == Pooling("mean")


@pytest.mark.parametrize(
    ("pooling", "names", "message"),
    [
        ("cls", (), "cls_token"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, (), "mean_tokens and lasttoken"),
        ({}, (), "only lasttoken and mean"),
        ("mean", ("Transformer", "Pooling", "Dense", "Normalize"), "Dense"),
        ("mean", ("Transformer",), "Transformer"),
    ],
)
def test_other_ways_are_refused_by_name(tmp_path: Path, pooling: Any, names: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        load_pooling(add_modules(tmp_path, pooling, *names))


def test_broken_files_are_named(tmp_path: Path) -> None:
    (add_modules(tmp_path) / "1_Pooling" / "config.json").unlink()
    with pytest.raises(EngineError, match=r"1_Pooling/config\.json, which is missing"):
        load_pooling(tmp_path)
    for text in ("{", "{}", '[{"type": 3}]', "[4]"):
        (tmp_path / "modules.json").write_text(text)
        with pytest.raises(EngineError, match=r"modules\.json"):
            load_pooling(tmp_path)


@pytest.mark.parametrize(("name", "prefix"), [("qwen3", ""), ("llama", ""), ("llama", "model.")])
def test_a_decoder_without_a_head_is_read(tmp_path: Path, name: str, prefix: str) -> None:
    """As models for embeddings are stored: no name before those of the decoder, no LM head."""
    model = reference_model(name)
    tensors = {prefix + key: value.contiguous() for key, value in model.model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    raw = model.config.to_dict() | {"architectures": [type(model.model).__name__]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = load_config(tmp_path)
    assert not config.generates
    weights = load_weights(tmp_path, config, torch.float32, "cpu")
    assert weights.head is weights.embed
    prompt = [5, 6, 7, 8, 9]
    sampling = [Sampling(1, ignore_eos=True, pooling="last")]
    _, done = run_engine(Decoder(config, weights), [prompt], sampling)
    assert done[0].embedding @ expected(model, prompt) == pytest.approx(1, abs=1e-5)


def test_a_tied_model_that_was_stored_by_itself_has_its_head(tmp_path: Path) -> None:
    model = reference_model("llama-tied-bias")
    save_file(
        {key: value.contiguous() for key, value in model.model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(
        json.dumps(model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]})
    )
    config = load_config(tmp_path)
    assert config.generates
    load_weights(tmp_path, config, torch.float32, "cpu")


@pytest.mark.parametrize("setting", [{"is_causal": False}, {"use_bidirectional_attention": True}])
def test_attention_to_later_tokens_is_refused(setting: dict[str, bool]) -> None:
    raw = reference_model("qwen3").config.to_dict() | {"architectures": ["Qwen3Model"], **setting}
    with pytest.raises(UnsupportedModelError, match=next(iter(setting))):
        parse_config(raw)
