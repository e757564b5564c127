"""The operation of vLLM's that SGLang computes rotary embeddings with, where it has no kernel of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rotary_embedding(
    positions: Tensor, query: Tensor, key: Tensor | None, head_size: int, cache: Tensor, is_neox: bool
) -> None:
    """Rotate query and key in place, of T tokens each.

    Parameters
    ----------
    positions
        int64 [T].
    query, key
        [T, heads * head_size].
    cache
        [longest, rotated]: cosines, then sines, of each position.
    is_neox
        Whether pairs are half a head apart; else they are neighbours.
    """
    cos, sin = (part[:, None] for part in cache[positions.flatten()].chunk(2, -1))
    rotated = 2 * cos.shape[-1]
    for one in (query, key):
        if one is None:
            continue
        heads = one.view(positions.numel(), -1, head_size)[..., :rotated]
        a, b = heads.chunk(2, -1) if is_neox else (heads[..., ::2], heads[..., 1::2])
        first, second = a * cos - b * sin, b * cos + a * sin
        heads.copy_(
            torch.cat((first, second), -1) if is_neox else torch.stack((first, second), -1).flatten(-2)
        )
