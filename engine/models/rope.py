"""Rotation frequencies of RoPE, with the scalings of longer contexts; `engine.kernels.rope` applies them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return ``theta^(-2i/d)`` for i < d/2, float32 [head_dim / 2], stretched as the model asks.

    - linear: all divided by `factor`;
    - llama3: wavelengths above ``original / low_freq_factor`` are stretched by `factor`, those below
      ``original / high_freq_factor`` are kept, and between the two the change is linear (Llama 3.1);
    - yarn: dimensions that turn more than `high_freq_factor` times over the original context are kept, those
      that turn less than `low_freq_factor` times are stretched, with a linear ramp over the dimensions
      between (Peng et al., "YaRN", 2023).
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    frequency = 1.0 / (rope.theta**exponent)
    if rope.kind == "linear":
        return frequency / rope.factor
    if rope.kind == "llama3":
        return _llama3(frequency, rope)
    if rope.kind == "yarn":
        kept = 1 - _yarn_ramp(rope, head_dim)
        return frequency / rope.factor * (1 - kept) + frequency * kept
    return frequency


def _llama3(frequency: Tensor, rope: RopeConfig) -> Tensor:
    wavelength = 2 * math.pi / frequency
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_max_positions / wavelength - low) / (high - low)
    blended = (1 - smooth) * frequency / rope.factor + smooth * frequency
    scaled = torch.where(wavelength > rope.original_max_positions / low, frequency / rope.factor, frequency)
    middle = (wavelength <= rope.original_max_positions / low) & (
        wavelength >= rope.original_max_positions / high
    )
    return torch.where(middle, blended, scaled)


def _yarn_ramp(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return 0 for the dimensions to keep up to 1 for those to stretch, float32 [head_dim / 2]."""

    def dimension(rotations: float) -> float:
        turns = rope.original_max_positions / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.high_freq_factor), dimension(rope.low_freq_factor)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    return ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
