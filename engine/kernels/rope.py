"""Rotary position embedding (Su et al., "RoFormer", 2021), with the Llama 3 frequency scaling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return ``theta^(-2i/d)`` for i < d/2, float32 [head_dim / 2], scaled as in Llama 3.1 if asked.

    Wavelengths above ``original / low_freq_factor`` are stretched by `factor`, those below
    ``original / high_freq_factor`` are kept, and between the two the change is linear.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    frequency = 1.0 / (rope.theta**exponent)
    if rope.factor == 1.0:
        return frequency
    wavelength = 2 * math.pi / frequency
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_max_positions / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequency / rope.factor + smooth * frequency
    scaled = torch.where(wavelength > rope.original_max_positions / low, frequency / rope.factor, frequency)
    middle = (wavelength <= rope.original_max_positions / low) & (
        wavelength >= rope.original_max_positions / high
    )
    return torch.where(middle, blended, scaled)


def rope_table(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ``(cos, sin)``, each [tokens, 1, head_dim], of int64 `positions` [tokens]."""
    angle = positions.to(torch.float32)[:, None] * frequencies[None, :]
    angle = torch.cat((angle, angle), dim=-1)[:, None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x * cos + rotate_half(x) * sin`` for x [tokens, heads, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
