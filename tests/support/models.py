"""Tiny random models and the transformers oracle, shared by the engine's tests."""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from engine.models.config import parse_config
from engine.models.decoder import Decoder
from engine.models.weights import assemble

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 3,
    "bos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2),
    "mixtral-window": MixtralConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=1, sliding_window=11, head_dim=10
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **SIZES,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=24,
        norm_topk_prob=True,
    ),
    "qwen3-moe-not-normalised": Qwen3MoeConfig(
        **SIZES,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        norm_topk_prob=False,
    ),
}
"""Mixtures of experts, which run on the CPU alone."""
CONFIGS = {
    "llama": LlamaConfig(**SIZES, head_dim=12),
    "llama-tied-bias": LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True),
    "llama3-rope": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama-linear-rope": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    # Windows that are no multiple of the page size, and shorter than most prompts.
    "qwen3-layer-types": Qwen3Config(
        **SIZES,
        head_dim=16,
        use_sliding_window=True,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=10),
    "mistral-window": MistralConfig(**SIZES, sliding_window=13),
    "qwen2-tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-window": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen2-yarn": Qwen2Config(
        **SIZES,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
}


def reference_model(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config({**CONFIGS, **EXPERTS}[name]).to(torch.float32).eval()
    # Biases start at zero in transformers: a test must see them.
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def decoder_of(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Decoder:
    raw = model.config.to_dict()
    raw["architectures"] = [type(model).__name__]
    config = parse_config(raw)
    tensors = dict(model.state_dict())
    return Decoder(config, assemble(config, tensors.__getitem__, dtype))


def greedy(model: torch.nn.Module, prompt: list[int], max_new: int, *, stop: bool = True) -> list[int]:
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_new,
            do_sample=False,
            eos_token_id=3 if stop else -1,
        )
    return out[0, len(prompt) :].tolist()


def flatten(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    start = np.cumsum([0] + [len(p) for p in prompts])
    return np.array([t for p in prompts for t in p], np.int32), start.astype(np.int64)
