"""Root-mean-square normalisation, with the residual addition that precedes it in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``weight * x / sqrt(mean(x^2) + eps)`` over the last dimension, computed in float32.

    Parameters
    ----------
    x
        [..., n], any float dtype; the result has the same shape and dtype.
    weight
        [n], dtype of `x`.
    eps
        Added to the mean square.

    Notes
    -----
    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``(rms_norm(x + residual), x + residual)``; all [tokens, n]. `residual` is overwritten."""
    residual += x
    return rms_norm(residual, weight, eps), residual
