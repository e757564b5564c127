"""Which attention operations a device runs with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from engine.kernels.block_attention import decode_attention_reference, prefill_attention_reference

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


class AttentionOps(NamedTuple):
    """Attention of sequences with one new token, and of sequences with any number of them.

    The signatures are those of `engine.kernels.block_attention`.
    """

    decode: Callable[..., Tensor]
    prefill: Callable[..., Tensor]


def attention_ops(device: torch.device) -> AttentionOps:
    """Return the kernels of a GPU, and the references elsewhere."""
    if device.type != "cuda":
        return AttentionOps(decode_attention_reference, prefill_attention_reference)
    decode = import_module("engine.kernels.decode_attention").decode_attention
    prefill = import_module("engine.kernels.prefill_attention").prefill_attention
    return AttentionOps(decode, prefill)
