"""Launches of every kernel but attention, at the sizes of Llama-3.1-8B, for `compile_only`."""

from __future__ import annotations

from compile_only import Spec

from engine.kernels.rms_norm import rms_norm_kernel
from engine.kernels.rms_norm import settings as rms_norm_settings

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


SPECS = [_rms(add=False), _rms(add=True)]
