"""What the decoder needs to know about a model, read from a Hugging Face `config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, UnsupportedModelError
from engine.models.checkpoint import read_json
from engine.models.quantisation import Fp8Scheme, parse_quantisation
from engine.models.vision import text_model

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Architecture:
    """How an architecture differs from the common decoder.

    Attributes
    ----------
    qk_norm
        Queries and keys are normalised per head before RoPE.
    qkv_bias, out_bias
        Whether the attention projections have biases; None: as `attention_bias` in config.json says.
    windows
        Where sliding windows come from: "none", "all" (`sliding_window` holds for every layer), or "layers"
        (`use_sliding_window` turns it on, `layer_types` or `max_window_layers` say where).
    default_window
        Of "all", where config.json does not say.
    expert_size
        The setting that has the inner size of an expert; None: the model is dense.
    """

    qk_norm: bool = False
    qkv_bias: bool | None = None
    out_bias: bool | None = None
    windows: str = "none"
    default_window: int | None = 4096
    expert_size: str | None = None


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture(),
    "MistralForCausalLM": Architecture(qkv_bias=False, out_bias=False, windows="all"),
    "MixtralForCausalLM": Architecture(
        qkv_bias=False,
        out_bias=False,
        windows="all",
        default_window=None,
        expert_size="intermediate_size",
    ),
    "Qwen2ForCausalLM": Architecture(qkv_bias=True, out_bias=False, windows="layers"),
    "Qwen3ForCausalLM": Architecture(qk_norm=True, windows="layers"),
    "Qwen3MoeForCausalLM": Architecture(qk_norm=True, windows="layers", expert_size="moe_intermediate_size"),
}
"""The supported architectures by their name in config.json; Qwen2.5 calls itself Qwen2."""
HEADLESS = {"LlamaModel": "LlamaForCausalLM", "MistralModel": "MistralForCausalLM"} | {
    "Qwen2Model": "Qwen2ForCausalLM",
    "Qwen3Model": "Qwen3ForCausalLM",
}
"""The same decoders without an LM head, as models for embeddings are stored."""

_COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "max_position_embeddings",
)

# What transformers takes where config.json is silent.
_DEFAULT_WINDOW, _DEFAULT_WINDOW_LAYERS = 4096, 28


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: base and frequency scaling (`engine.models.rope.inverse_frequencies`).

    Attributes
    ----------
    theta
        The base.
    kind
        "default", "linear", "llama3" or "yarn".
    factor
        How far the context is stretched.
    low_freq_factor, high_freq_factor
        Of llama3; for yarn the numbers of rotations `beta_slow` and `beta_fast`.
    original_max_positions
        Context length before stretching.
    scale
        Factor of cos and sin; not 1 for yarn only.
    truncate
        Whether yarn rounds the bounds of its ramp to whole dimensions.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    scale: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Experts:
    """The mixture of experts that every layer has in place of one MLP.

    Attributes
    ----------
    count, per_token
        Experts of a layer, and those that a token goes to.
    normalised
        Whether the shares of the chosen ones are made to sum up to 1.
    """

    count: int
    per_token: int
    normalised: bool


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder-only model (sizes in elements, lengths in tokens).

    `windows` has one entry per layer: the most recent tokens a token of that layer attends to, itself
    included, or None for all of them. `quantised` says how to read the matrices of an 8-bit
    checkpoint. Of a mixture of experts `intermediate_size` is that of one expert. `generates` is False for a
    decoder without an LM head, which gives hidden states alone. Of a model with a vision tower, named by
    `vision`, it is the shape of the decoder behind that.
    """

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
    qkv_bias: bool
    out_bias: bool
    windows: tuple[int | None, ...]
    stop_token_ids: tuple[int, ...]
    quantised: Fp8Scheme | None = None
    experts: Experts | None = None
    generates: bool = True
    vision: str = ""


def load_config(folder: Path) -> ModelConfig:
    """Read `config.json` (and the stop tokens of `generation_config.json`) from a model folder.

    Raises
    ------
    UnsupportedModelError
        If a setting would change the answers and is not implemented; it is named.
    EngineError
        If a file is no JSON, or `config.json` lacks a setting.
    FileNotFoundError
        If there is no `config.json`.
    """
    raw = read_json(folder / "config.json")
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    for name in _COUNTS:
        if name in raw and (not isinstance(raw[name], int) or raw[name] < 1):
            raise EngineError(
                f"--model: {folder / 'config.json'}: {name} = {raw[name]!r} is no number above 0"
            )
    try:
        return parse_config(raw, generation)
    except KeyError as error:
        raise EngineError(
            f"--model: {folder / 'config.json'} has no {error.args[0]!r}; copy or download it again"
        ) from None
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"--model: {folder / 'config.json'} has a setting of another type than it should ({error})"
        ) from None


def check_runs(config: ModelConfig) -> None:
    """Refuse a model of which our engine knows the shape alone.

    Raises
    ------
    UnsupportedModelError
        If it has a vision tower.
    """
    if config.vision:
        raise UnsupportedModelError(
            "vision_config",
            config.vision,
            "our engine runs no models that see: add --engine endpoint",
        )


def parse_config(raw: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    """Translate a Hugging Face configuration; see `load_config`."""
    text = text_model(raw)
    if text is not None:
        return replace(parse_config(text, generation), vision=str(raw.get("model_type", "vision")))
    architecture = (raw.get("architectures") or ["missing"])[0]
    kind_of = HEADLESS.get(architecture, architecture)
    if kind_of not in ARCHITECTURES:
        known = ", ".join(sorted((*ARCHITECTURES, *HEADLESS)))
        raise UnsupportedModelError("architectures", architecture, f"supported are {known}")
    _refuse(raw, "hidden_act", {"silu"}, "only the SiLU-gated MLP is implemented")
    _refuse(raw, "mlp_bias", {False, None}, "use a checkpoint without MLP biases")
    _refuse(raw, "pretraining_tp", {1, None}, "use a checkpoint exported with pretraining_tp = 1")
    # Some models for embeddings let a token attend to those after it.
    _refuse(raw, "is_causal", {True, None}, "only attention to earlier tokens is implemented")
    _refuse(
        raw, "use_bidirectional_attention", {False, None}, "only attention to earlier tokens is implemented"
    )
    kind = ARCHITECTURES[kind_of]
    heads = raw["num_attention_heads"]
    stop = (generation or {}).get("eos_token_id", raw.get("eos_token_id"))
    bias = bool(raw.get("attention_bias", False))
    rope = _parse_rope(raw)
    # Checkpoints that are stretched by yarn keep the unstretched length in max_position_embeddings.
    stretched = int(rope.factor * rope.original_max_positions) if rope.kind == "yarn" else 0
    stop_ids = [] if stop is None else stop if isinstance(stop, list) else [stop]
    return ModelConfig(
        architecture=architecture,
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw[kind.expert_size or "intermediate_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        rms_eps=raw.get("rms_norm_eps", 1e-6),
        rope=rope,
        max_positions=max(raw["max_position_embeddings"], stretched),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qk_norm=kind.qk_norm,
        qkv_bias=bias if kind.qkv_bias is None else kind.qkv_bias,
        out_bias=bias if kind.out_bias is None else kind.out_bias,
        windows=_parse_windows(raw, kind),
        stop_token_ids=tuple(sorted(int(i) for i in stop_ids)),
        quantised=parse_quantisation(raw.get("quantization_config")),
        experts=None if kind.expert_size is None else _parse_experts(raw, architecture),
        generates=architecture not in HEADLESS,
    )


def _parse_experts(raw: dict[str, Any], architecture: str) -> Experts:
    if raw.get("quantization_config") is not None:
        raise UnsupportedModelError(
            "quantization_config", "with experts", "use a checkpoint in bfloat16, or --engine vllm"
        )
    every = "only models with experts in every layer are implemented"
    _refuse(raw, "decoder_sparse_step", {1, None}, every)
    if raw.get("mlp_only_layers"):
        raise UnsupportedModelError("mlp_only_layers", raw["mlp_only_layers"], every)
    # transformers writes the one or the other for the same.
    count = raw["num_local_experts"] if "num_local_experts" in raw else raw["num_experts"]
    chosen = raw["num_experts_per_tok"]
    if not isinstance(count, int) or not isinstance(chosen, int) or not 1 <= chosen <= count:
        raise UnsupportedModelError("num_experts_per_tok", chosen, f"must be 1 to {count}")
    normalised = architecture == "MixtralForCausalLM" or bool(raw.get("norm_topk_prob", False))
    return Experts(count, chosen, normalised)


def _refuse(raw: dict[str, Any], field: str, allowed: set[object], remedy: str) -> None:
    value = raw.get(field, next(iter(allowed)))
    if isinstance(value, dict | list) or value not in allowed:
        raise UnsupportedModelError(field, value, remedy)


def _parse_windows(raw: dict[str, Any], kind: Architecture) -> tuple[int | None, ...]:
    layers: int = raw["num_hidden_layers"]
    window: int | None
    types = raw.get("layer_types")
    if kind.windows == "all":
        window = raw.get("sliding_window", kind.default_window)
        expected = "full_attention" if window is None else "sliding_attention"
        if types is not None and set(types) != {expected}:
            raise UnsupportedModelError("layer_types", types, "only one kind for all layers is implemented")
        return (window,) * layers
    asked = raw.get("use_sliding_window") or "sliding_attention" in (types or [])
    if kind.windows == "none" and asked:
        raise UnsupportedModelError(
            "use_sliding_window", raw.get("sliding_window"), "use a model with full attention"
        )
    # As in transformers: without the switch the window is off, whatever the layer types say.
    window = raw.get("sliding_window", _DEFAULT_WINDOW) if raw.get("use_sliding_window") else None
    if types is None:
        first = raw.get("max_window_layers", _DEFAULT_WINDOW_LAYERS)
        types = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    if len(types) != layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise UnsupportedModelError(
            "layer_types", types, "one of full_attention and sliding_attention per layer"
        )
    return tuple(window if name == "sliding_attention" else None for name in types)


def _parse_rope(raw: dict[str, Any]) -> RopeConfig:
    # transformers 5 writes `rope_parameters`; earlier checkpoints `rope_theta` + `rope_scaling`.
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    partial = scaling.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise UnsupportedModelError("partial_rotary_factor", partial, "only 1.0 is implemented")
    if kind == "default":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, kind, float(scaling["factor"]))
    if kind == "llama3":
        return RopeConfig(
            theta,
            kind,
            float(scaling["factor"]),
            float(scaling["low_freq_factor"]),
            float(scaling["high_freq_factor"]),
            int(scaling["original_max_position_embeddings"]),
        )
    if kind == "yarn":
        return _parse_yarn(raw, scaling, theta)
    raise UnsupportedModelError(
        "rope_parameters.rope_type", kind, "supported are default, linear, llama3 and yarn"
    )


def _parse_yarn(raw: dict[str, Any], scaling: dict[str, Any], theta: float) -> RopeConfig:
    original = int(scaling.get("original_max_position_embeddings") or raw["max_position_embeddings"])
    factor = float(scaling.get("factor") or raw["max_position_embeddings"] / original)
    scale = scaling.get("attention_factor")
    if scale is None:
        one, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
        scale = _yarn_scale(factor, 1.0)
        if one and all_dim:
            scale = _yarn_scale(factor, one) / _yarn_scale(factor, all_dim)
    return RopeConfig(
        theta,
        "yarn",
        factor,
        float(scaling.get("beta_slow") or 1.0),
        float(scaling.get("beta_fast") or 32.0),
        original,
        float(scale),
        bool(scaling.get("truncate", True)),
    )


def _yarn_scale(factor: float, scale: float) -> float:
    """Return ``0.1 scale ln(factor) + 1`` (Peng et al., "YaRN", 2023)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
