"""Rotary position embedding (Su et al., "RoFormer", 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rope_table(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return ``scale * (cos, sin)``, each [tokens, 1, head_dim], of int64 `positions` [tokens]."""
    angle = positions.to(torch.float32)[:, None] * frequencies[None, :]
    angle = torch.cat((angle, angle), dim=-1)[:, None, :]
    return (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x * cos + rotate_half(x) * sin`` for x [tokens, heads, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
