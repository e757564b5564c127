"""Which 8-bit checkpoints can be loaded, read from `quantization_config` of a Hugging Face `config.json`.

W8A8 in e4m3: matrices as `float8_e4m3fn` with a scale for all of a matrix or for each of its rows,
activations quantised token by token or by one scale of the checkpoint. Two spellings are in use for it:
`compressed-tensors` and `fp8`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.errors import UnsupportedModelError

_FIELD = "quantization_config"


@dataclass(frozen=True)
class Fp8Scheme:
    """How a W8A8 checkpoint is to be read.

    Attributes
    ----------
    fixed_inputs
        Whether each matrix comes with `input_scale`, one scale for its activations; else each token gets its
        own.
    kv_scales
        Whether attention layers come with `k_scale` and `v_scale` for a KV cache in e4m3.
    """

    fixed_inputs: bool
    kv_scales: bool


def parse_quantisation(raw: dict[str, Any] | None) -> Fp8Scheme | None:
    """Translate `quantization_config`; None where there is none.

    Raises
    ------
    UnsupportedModelError
        If it is any other than W8A8 in e4m3; the field is named.
    """
    if raw is None:
        return None
    method = raw.get("quant_method")
    if method == "compressed-tensors":
        return _compressed_tensors(raw)
    if method == "fp8":
        return _fp8(raw)
    raise UnsupportedModelError(
        f"{_FIELD}.quant_method", method, "supported are fp8 and compressed-tensors (W8A8 in e4m3), or none"
    )


def _fp8(raw: dict[str, Any]) -> Fp8Scheme:
    _expect("weight_block_size", raw.get("weight_block_size"), {None}, "scales by block are not implemented")
    activations = raw.get("activation_scheme", "dynamic")
    _expect("activation_scheme", activations, {"static", "dynamic"}, "use static or dynamic")
    cache = raw.get("kv_cache_scheme")
    _expect("kv_cache_scheme", cache, {None, "static"}, "use static or none")
    return Fp8Scheme(activations == "static", cache is not None)


def _compressed_tensors(raw: dict[str, Any]) -> Fp8Scheme:
    _expect("format", raw.get("format"), {"float-quantized"}, "use a W8A8 checkpoint in e4m3")
    schemes = set()
    for name, group in (raw.get("config_groups") or {}).items():
        place = f"config_groups.{name}"
        weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
        _expect_e4m3(f"{place}.weights", weights, {"tensor", "channel"})
        _expect_e4m3(f"{place}.input_activations", inputs, {"tensor", "token"})
        dynamic = bool(inputs.get("dynamic", False))
        if dynamic != (inputs["strategy"] == "token"):
            raise UnsupportedModelError(
                f"{_FIELD}.{place}.input_activations.dynamic", dynamic, "use token with dynamic scales only"
            )
        schemes.add(dynamic)
    if len(schemes) != 1:
        raise UnsupportedModelError(
            f"{_FIELD}.config_groups",
            sorted(raw.get("config_groups") or {}),
            "one scheme for all is implemented",
        )
    cache = raw.get("kv_cache_scheme")
    if cache is not None:
        _expect_e4m3("kv_cache_scheme", cache, {"tensor", "attn_head"})
        _expect("kv_cache_scheme.dynamic", cache.get("dynamic", False), {False}, "use fixed scales")
    return Fp8Scheme(not schemes.pop(), cache is not None)


def _expect_e4m3(place: str, raw: dict[str, Any], strategies: set[str]) -> None:
    _expect(f"{place}.type", raw.get("type"), {"float"}, "use a checkpoint in e4m3")
    _expect(f"{place}.num_bits", raw.get("num_bits"), {8}, "use a checkpoint in e4m3")
    _expect(f"{place}.symmetric", raw.get("symmetric", True), {True}, "use a symmetric scheme")
    _expect(f"{place}.strategy", raw.get("strategy"), strategies, f"use {' or '.join(sorted(strategies))}")


def _expect(name: str, value: object, allowed: set[Any], remedy: str) -> None:
    if isinstance(value, dict | list) or value not in allowed:
        raise UnsupportedModelError(f"{_FIELD}.{name}", value, remedy)
