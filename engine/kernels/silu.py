"""The gated activation of the MLP over one fused gate-up projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels import host_ops
from engine.kernels.backend import kernel, tl, use_triton

if TYPE_CHECKING:
    from torch import Tensor


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` where ``gate_up = [gate | up]``: [tokens, 2n] -> [tokens, n].

    ``silu(x) = x / (1 + e^-x)`` (Shazeer, "GLU Variants Improve Transformer", 2020).
    """
    if not use_triton(gate_up):
        if host_ops.fits(gate_up):
            return host_ops.silu_and_mul(gate_up)
        return silu_and_mul_reference(gate_up)
    tokens, n = gate_up.shape[0], gate_up.shape[1] // 2
    return launch(gate_up, gate_up.new_empty((tokens, n)))


def silu_and_mul_reference(gate_up: Tensor) -> Tensor:
    """Return what `silu_and_mul` does, by torch operations."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)


def settings(n: int) -> dict[str, int]:
    """Return the launch settings for rows of `n` outputs: 8 elements per thread and access."""
    block = min(1024, 1 << max(n - 1, 1).bit_length())
    return {"BLOCK": block, "num_warps": max(1, block // 256)}


def launch(gate_up: Tensor, out: Tensor) -> Tensor:
    """Run the Triton kernel over `gate_up` [tokens, 2n] into `out` [tokens, n]."""
    tokens, n = out.shape
    if tokens:
        chosen = settings(n)
        grid = (tokens, -(-n // chosen["BLOCK"]))
        silu_and_mul_kernel[grid](gate_up, out, gate_up.stride(0), out.stride(0), n, **chosen)
    return out


@kernel
def silu_and_mul_kernel(
    gate_up: tl.tensor,
    out: tl.tensor,
    in_stride: tl.tensor,
    out_stride: tl.tensor,
    n: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """``out = gate / (1 + e^-gate) * up`` for BLOCK elements of one row, rounded once."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    gate = tl.load(gate_up + row * in_stride + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * in_stride + n + place, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * out_stride + place, result.to(out.dtype.element_ty), mask=inside)
