"""Of a model with a vision tower the plan counts with the decoder behind it, whoever wrote its config."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.cost.devices import model_shape
from engine.errors import UnsupportedModelError
from engine.models.config import check_runs, parse_config
from tasks.base.errors import ConfigurationError
from tasks.night.model import check_for_engine

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
MROPE = {"type": "mrope", "mrope_section": [4, 6, 6]}


def vision(architecture: str, model_type: str, text: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    text_config = {} if text is None else {"text_config": text}
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vision_config": {"hidden_size": 8},
        **text_config,
        **more,
    }


@pytest.mark.parametrize(
    ("raw", "head_dim"),
    [
        (
            vision(
                "Qwen2_5_VLForConditionalGeneration",
                "qwen2_5_vl",
                {**TEXT, "model_type": "qwen2_5_vl_text", "rope_scaling": MROPE},
            ),
            16,
        ),
        # As the hub has it: all in one.
        (vision("Qwen2VLForConditionalGeneration", "qwen2_vl", None, **TEXT, rope_scaling=MROPE), 16),
        (
            vision(
                "Qwen3VLForConditionalGeneration",
                "qwen3_vl",
                {**TEXT, "model_type": "qwen3_vl_text", "head_dim": 32},
            ),
            32,
        ),
        (vision("LlavaForConditionalGeneration", "llava", {**TEXT, "model_type": "llama"}), 16),
        (
            vision("SmolVLMForConditionalGeneration", "smolvlm", {**TEXT, "model_type": "llama"}),
            16,
        ),
        (
            vision(
                "Gemma3ForConditionalGeneration",
                "gemma3",
                {
                    **TEXT,
                    "model_type": "gemma3_text",
                    "head_dim": 16,
                    "sliding_window": 32,
                    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
                },
            ),
            16,
        ),
    ],
)
def test_its_shape_is_that_of_the_text_model(raw: dict[str, Any], head_dim: int) -> None:
    config = parse_config(raw)
    assert config.vision == raw["model_type"]
    shape = model_shape(config, "bfloat16")
    query, kv = 4 * head_dim, 2 * head_dim
    # By hand: attention, the gated MLP, and KV of three layers in two bytes.
    assert shape.body_parameters == 3 * (64 * (query + 2 * kv) + query * 64 + 3 * 64 * 96)
    assert shape.kv_bytes_per_token == 3 * 2 * kv * 2
    if raw["model_type"] == "gemma3":
        assert config.windows == (32, 32, None)
    with pytest.raises(UnsupportedModelError, match="--engine endpoint"):
        check_runs(config)


def test_sizes_that_a_file_leaves_out_are_those_of_its_kind() -> None:
    """As of LLaVA 1.5, whose text model is a Llama of 7 billion by default."""
    raw = vision("LlavaForConditionalGeneration", "llava", {"model_type": "llama", "vocab_size": 32064})
    config = parse_config(raw)
    assert (config.hidden_size, config.layers, config.vocab_size) == (4096, 32, 32064)


def test_a_text_model_of_no_known_shape_is_refused_by_its_own_name() -> None:
    raw = vision("FlorenceForConditionalGeneration", "florence2", {**TEXT, "model_type": "bart"})
    with pytest.raises(UnsupportedModelError, match="FlorenceForConditionalGeneration"):
        parse_config(raw)


@pytest.mark.parametrize("engine", ["native", "vllm", "endpoint"])
def test_a_night_of_our_own_engine_is_refused_before_anything_is_tokenised(engine: str) -> None:
    config = parse_config(vision("LlavaForConditionalGeneration", "llava", {**TEXT, "model_type": "llama"}))
    night: Any = SimpleNamespace(engine=SimpleNamespace(name=engine))
    if engine != "native":
        check_for_engine(night, config)
        return
    with pytest.raises(ConfigurationError, match="runs no models that see") as caught:
        check_for_engine(night, config)
    assert caught.value.field == "--model"
