"""Launches of every kernel but attention, at the sizes of Llama-3.1-8B, for `compile_only`."""

from __future__ import annotations

from engine.kernels.fp8 import E4M3_MAX
from engine.kernels.gather_rows import gather_rows_kernel
from engine.kernels.gather_rows import settings as gather_settings
from engine.kernels.grouped_experts import (
    SEARCH,
    add_experts_kernel,
    expert_tiles_kernel,
    narrow_kernel,
    widen_kernel,
)
from engine.kernels.grouped_experts import settings as expert_settings
from engine.kernels.linear import quantise_rows_kernel
from engine.kernels.linear import settings as quantise_settings
from engine.kernels.next_token import draw_kernel
from engine.kernels.next_token import settings as sampling_settings
from engine.kernels.qk_rope_store import qk_rope_store_kernel
from engine.kernels.qk_rope_store import settings as rope_settings
from engine.kernels.rms_norm import rms_norm_kernel
from engine.kernels.rms_norm import settings as rms_norm_settings
from engine.kernels.silu import settings as silu_settings
from engine.kernels.silu import silu_and_mul_kernel
from tests.engine.kernels.triton.compile_only import Spec

HIDDEN = 4096


def _rms(add: bool) -> Spec:
    pointers = dict.fromkeys(("x", "residual", "weight", "out"), "*bf16")
    strides = dict.fromkeys(("x_stride", "residual_stride", "out_stride", "n"), "i32")
    return Spec(
        "rms_norm_add" if add else "rms_norm",
        rms_norm_kernel,
        {**pointers, **strides, "eps": "fp32"},
        {"ADD": add, **rms_norm_settings(HIDDEN)},
    )


def _qk_rope_store(norm: bool, fp8: bool) -> Spec:
    names = ("qkv", "cosines", "sines", "cache", "q_norm", "k_norm", "scales", "out")
    pointers = dict.fromkeys(names, "*bf16") | {"pages": "*i32", "offsets": "*i32"}
    if fp8:
        pointers |= {"cache": "*fp8e4nv", "scales": "*fp32"}
    strides = dict.fromkeys(("qkv_stride", "rope_stride", "out_stride"), "i32")
    sizes = {"HEADS_Q": 32, "HEADS_KV": 8, "DIM": 128, "PAGE": 16, "LIMIT": E4M3_MAX}
    return Spec(
        "qk_rope_store" + "_norm" * norm + "_fp8" * fp8,
        qk_rope_store_kernel,
        {**pointers, **strides, "eps": "fp32"},
        {**sizes, "NORM": norm, "FP8": fp8, **rope_settings(128)},
        architectures=("sm_90",) if fp8 else ("sm_80", "sm_90"),
    )


def _draw(draw: bool, restrict: bool, masked: bool = False) -> Spec:
    pointers = {
        "logits": "*bf16",
        "out": "*i64",
        "temperatures": "*fp32",
        "top_ks": "*i64",
        "top_ps": "*fp32",
    }
    return Spec(
        ("greedy" if not draw else "draw_restricted" if restrict else "draw") + "_masked" * masked,
        draw_kernel,
        {
            **pointers,
            **dict.fromkeys(("seeds", "positions"), "*i64"),
            **dict.fromkeys(("mask_rows", "masks"), "*i32"),
            **dict.fromkeys(("stride", "vocab", "masks_stride"), "i32"),
        },
        {"DRAW": draw, "RESTRICT": restrict, "MASKED": masked, **sampling_settings(128256)},
    )


def _experts(rows: int) -> list[Spec]:
    """The products at the sizes of Qwen3-30B-A3B: 128 experts, 8 for a token; `rows` are tokens times 8."""
    chosen = {"SEARCH": SEARCH, **expert_settings(rows, 128)}
    tile = f"_{chosen['ROWS']}"
    pointers = {"order": "*i32", "starts": "*i32", "work": "*i32", "wide": "*bf16"}
    counts = dict.fromkeys(("experts", "width", "inner"), "i32")
    return [
        Spec(
            f"experts_widen{tile}",
            widen_kernel,
            {"hidden": "*bf16", "gate_up": "*bf16", "hidden_stride": "i32", **pointers, **counts},
            {"PER_TOKEN": 8, **chosen},
            attention=True,
        ),
        Spec(
            f"experts_narrow{tile}",
            narrow_kernel,
            {"down": "*bf16", "shares": "*fp32", "parts": "*bf16", **pointers, **counts},
            chosen,
            attention=True,
        ),
    ]


SPECS = [
    *_experts(256),
    *_experts(16384),
    Spec(
        "experts_tiles",
        expert_tiles_kernel,
        {"starts": "*i32", "work": "*i32", "experts": "i32"},
        {"ROWS": 16, "SEARCH": SEARCH, "num_warps": 4},
    ),
    Spec(
        "experts_add",
        add_experts_kernel,
        {"parts": "*bf16", "out": "*bf16", "out_stride": "i32", "width": "i32"},
        {"PER_TOKEN": 8, "BLOCK": 1024, "num_warps": 4},
    ),
    _draw(draw=False, restrict=False),
    _draw(draw=True, restrict=False),
    _draw(draw=True, restrict=True),
    _draw(draw=False, restrict=False, masked=True),
    _draw(draw=True, restrict=True, masked=True),
    _rms(add=False),
    _rms(add=True),
    _qk_rope_store(norm=False, fp8=False),
    _qk_rope_store(norm=True, fp8=False),
    _qk_rope_store(norm=True, fp8=True),
    Spec(
        "quantise_rows",
        quantise_rows_kernel,
        {
            "x": "*bf16",
            "fixed": "*fp32",
            "out": "*fp8e4nv",
            "scales": "*fp32",
            **dict.fromkeys(("x_stride", "out_stride", "n"), "i32"),
        },
        {"FIXED": False, "LIMIT": E4M3_MAX, **quantise_settings(HIDDEN)},
        architectures=("sm_90",),
    ),
    Spec(
        "silu_and_mul",
        silu_and_mul_kernel,
        {"gate_up": "*bf16", "out": "*bf16", "in_stride": "i32", "out_stride": "i32", "n": "i32"},
        silu_settings(14336),
    ),
    Spec(
        "gather_rows",
        gather_rows_kernel,
        {"x": "*bf16", "rows": "*i32", "out": "*bf16", "x_stride": "i32", "out_stride": "i32", "n": "i32"},
        gather_settings(HIDDEN),
    ),
]
