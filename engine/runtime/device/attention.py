"""The model's view of a step on a device: its tokens, and the attention operations that it launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.kernels.cascade_attention import cascade_attention
from engine.kernels.decode_attention import decode_attention
from engine.kernels.prefill_attention import prefill_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from engine.kernels.cascade_attention import SharedPages


class AttentionOps(NamedTuple):
    """Attention of sequences with one new token, of sequences with any number, and of groups with one each.

    By default the kernels, which fall back to their references where `engine.kernels.backend.use_triton` says
    so; others of the same signatures may take their place.
    """

    decode: Callable[..., Tensor] = decode_attention
    prefill: Callable[..., Tensor] = prefill_attention
    cascade: Callable[..., Tensor] = cascade_attention


@dataclass(frozen=True)
class DeviceInputs:
    """The tokens of one step in the fixed buffers; see `engine.models.decoder.StepInputs`."""

    tokens: Tensor
    positions: Tensor
    pages: Tensor
    offsets: Tensor
    sample_rows: Tensor
    decode_table: Tensor
    decode_context: Tensor
    prefill_table: Tensor | None
    prefill_context: Tensor
    query_start: Tensor
    groups: SharedPages | None
    ops: AttentionOps
    programs: int | None = None

    def attend(self, q: Tensor, cache: Tensor, window: int | None, scales: Tensor | None) -> Tensor:
        """Return attention of q [T, heads, head dim] over one layer's cache.

        The decode operation takes as many rows from the front as there may be sequences. Those that belong
        to longer sequences are overwritten by the prefill operation, which comes second. Pages that sequences
        share are read once for all of a group in layers without a window.
        """
        scale = q.shape[-1] ** -0.5
        # Padding rows that no operation writes must be finite: their KV goes to the padding page, which the
        # masked places of real sequences point to.
        out = torch.zeros_like(q)
        rows = self.decode_context.shape[0]
        decoding = q[:rows], cache, self.decode_table, self.decode_context
        options = {"scale": scale, "scales": scales, "out": out[:rows], "programs": self.programs}
        if self.groups is not None and window is None:
            self.ops.cascade(*decoding, self.groups, **options)
        else:
            self.ops.decode(*decoding, window=window, **options)
        if self.prefill_table is not None:
            self.ops.prefill(
                q,
                cache,
                self.prefill_table,
                self.query_start,
                self.prefill_context,
                scale=scale,
                window=window,
                scales=scales,
                out=out,
            )
        return out
