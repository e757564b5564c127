"""The attention operations that a device runner launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.kernels.cascade_attention import cascade_attention
from engine.kernels.decode_attention import decode_attention
from engine.kernels.prefill_attention import prefill_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class AttentionOps(NamedTuple):
    """Attention of sequences with one new token, of sequences with any number, and of groups with one each.

    By default the kernels, which fall back to their references where `engine.kernels.backend.use_triton` says
    so; others of the same signatures may take their place.
    """

    decode: Callable[..., Tensor] = decode_attention
    prefill: Callable[..., Tensor] = prefill_attention
    cascade: Callable[..., Tensor] = cascade_attention
