"""Root-mean-square normalisation, with the residual addition that precedes it in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels import host_ops
from engine.kernels.backend import kernel, tl, use_triton

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
    if not use_triton(x):
        if host_ops.fits(x, weight):
            return host_ops.rms_norm(x, None, weight, eps)
        return rms_norm_reference(x, weight, eps)
    flat = x.reshape(-1, x.shape[-1])
    return launch(flat, None, weight, eps, torch.empty_like(flat)).view(x.shape)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return what `rms_norm` does, by torch operations."""
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``(rms_norm(x + residual), x + residual)``; all [tokens, n]. `residual` is overwritten."""
    if not use_triton(x):
        if host_ops.fits(x, residual, weight):
            return host_ops.rms_norm(x, residual, weight, eps), residual
        return add_rms_norm_reference(x, residual, weight, eps)
    return launch(x, residual, weight, eps, torch.empty_like(x)), residual


def add_rms_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return what `add_rms_norm` does, by torch operations."""
    residual += x
    return rms_norm_reference(residual, weight, eps), residual


def settings(n: int) -> dict[str, int]:
    """Return the launch settings for rows of `n` elements: a row is one block of one program."""
    block = 1 << max(n - 1, 1).bit_length()
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def launch(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """Run the Triton kernel over the rows of `x` [tokens, n] into `out`; `residual` takes the sum."""
    tokens, n = x.shape
    if tokens:
        other = x if residual is None else residual
        strides = (x.stride(0), other.stride(0), out.stride(0))
        rms_norm_kernel[(tokens,)](
            x, other, weight, out, *strides, n, eps, ADD=residual is not None, **settings(n)
        )
    return out


@kernel
def rms_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    out_stride: tl.tensor,
    n: tl.tensor,
    eps: tl.tensor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out = weight * s / sqrt(mean(s^2) + eps)``, s = x + residual (stored to residual) if ADD, else x."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < n
    kind = out.dtype.element_ty
    s = tl.load(x + row * x_stride + place, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        # Rounded as the stored sum is: what is normalised is what the next layer adds to.
        s += tl.load(residual + row * residual_stride + place, mask=inside, other=0.0).to(tl.float32)
        stored = s.to(kind)
        tl.store(residual + row * residual_stride + place, stored, mask=inside)
        s = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(s * s, 0) / n + eps)
    gain = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    normal = (s * scale).to(kind).to(tl.float32)
    tl.store(out + row * out_stride + place, (gain * normal).to(kind), mask=inside)
