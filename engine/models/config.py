"""What the decoder needs to know about a model, read from a Hugging Face `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

ARCHITECTURES = {"LlamaForCausalLM": False, "Qwen3ForCausalLM": True}
"""Architecture name -> whether queries and keys are normalised per head before RoPE."""


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base, and the Llama 3 frequency scaling where `factor` > 1."""

    theta: float
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a dense decoder-only model (sizes in elements, lengths in tokens)."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    rope: RopeConfig
    max_positions: int
    tie_embeddings: bool
    qk_norm: bool
    attention_bias: bool
    stop_token_ids: tuple[int, ...]


def load_config(folder: Path) -> ModelConfig:
    """Read `config.json` (and the stop tokens of `generation_config.json`) from a model folder.

    Raises
    ------
    UnsupportedModelError
        If a setting would change the answers and is not implemented; it is named.
    FileNotFoundError
        If there is no `config.json`.
    """
    raw = json.loads((folder / "config.json").read_text())
    generation_file = folder / "generation_config.json"
    generation = json.loads(generation_file.read_text()) if generation_file.exists() else {}
    return parse_config(raw, generation)


def parse_config(raw: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    """Translate a Hugging Face configuration; see `load_config`."""
    architecture = (raw.get("architectures") or ["missing"])[0]
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModelError("architectures", architecture, f"supported are {known}")
    _refuse(raw, "hidden_act", {"silu"}, "only the SiLU-gated MLP is implemented")
    _refuse(raw, "mlp_bias", {False, None}, "use a checkpoint without MLP biases")
    _refuse(raw, "quantization_config", {None}, "use an unquantised checkpoint")
    _refuse(raw, "pretraining_tp", {1, None}, "use a checkpoint exported with pretraining_tp = 1")
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or []):
        raise UnsupportedModelError(
            "use_sliding_window", raw.get("sliding_window"), "use a model with full attention"
        )
    heads = raw["num_attention_heads"]
    stop = (generation or {}).get("eos_token_id", raw.get("eos_token_id"))
    stop_ids = [] if stop is None else stop if isinstance(stop, list) else [stop]
    return ModelConfig(
        architecture=architecture,
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        rms_eps=raw.get("rms_norm_eps", 1e-6),
        rope=_parse_rope(raw),
        max_positions=raw["max_position_embeddings"],
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qk_norm=ARCHITECTURES[architecture],
        attention_bias=bool(raw.get("attention_bias", False)),
        stop_token_ids=tuple(sorted(int(i) for i in stop_ids)),
    )


def _refuse(raw: dict[str, Any], field: str, allowed: set[object], remedy: str) -> None:
    value = raw.get(field, next(iter(allowed)))
    if isinstance(value, dict | list) or value not in allowed:
        raise UnsupportedModelError(field, value, remedy)


def _parse_rope(raw: dict[str, Any]) -> RopeConfig:
    # transformers 5 writes `rope_parameters`; earlier checkpoints `rope_theta` + `rope_scaling`.
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return RopeConfig(theta)
    if kind != "llama3":
        raise UnsupportedModelError("rope_parameters.rope_type", kind, "supported are default and llama3")
    return RopeConfig(
        theta,
        float(scaling["factor"]),
        float(scaling["low_freq_factor"]),
        float(scaling["high_freq_factor"]),
        int(scaling["original_max_position_embeddings"]),
    )
