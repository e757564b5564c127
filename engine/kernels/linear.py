"""Linear layer with 8-bit floating-point weights and activations (W8A8), by torch's scaled matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.kernels.backend import kernel, tl, use_triton
from engine.kernels.fp8 import E4M3_MAX

if TYPE_CHECKING:
    from torch import Tensor


class Fp8Weight(NamedTuple):
    """A matrix in e4m3.

    Attributes
    ----------
    data
        float8_e4m3fn [out, in].
    scale
        float32 [out]: the matrix is ``data * scale[:, None]``. A checkpoint with one scale has it repeated.
    input_scale
        float32 scalar that a checkpoint fixes for the activations; None: each token gets its own.
    """

    data: Tensor
    scale: Tensor
    input_scale: Tensor | None = None


def linear(x: Tensor, weight: Tensor | Fp8Weight, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + bias``, [tokens, in] -> [tokens, out], in 8 bits where the matrix is."""
    if isinstance(weight, Fp8Weight):
        return fp8_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


def quantise_rows(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ``x / s`` in e4m3 [n, width], limited to +-448, and s float32 [n].

    s is `scale` (a scalar) for every row, or ``max |x| / 448`` of the row where that is None; a row of zeros
    gets 1.
    """
    if not use_triton(x):
        return quantise_rows_reference(x, scale)
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scales = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    return launch(x, scale, out, scales)


def quantise_rows_reference(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what `quantise_rows` does, by torch operations."""
    wide = x.to(torch.float32)
    largest = wide.abs().amax(1) / E4M3_MAX if scale is None else scale.expand(x.shape[0])
    used = torch.where(largest > 0, largest, 1.0)
    return (wide / used[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), used


def fp8_linear(x: Tensor, weight: Fp8Weight, bias: Tensor | None = None) -> Tensor:
    """Return ``(s_x * xq) (s_w * wq)^T + bias`` in the dtype of `x`, [tokens, in] -> [tokens, out].

    The product runs on the 8-bit units (compute capability 8.9 on) and is summed in float32; where they are
    missing it is `fp8_linear_reference`.
    """
    if not (x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9)):
        return fp8_linear_reference(x, weight, bias)
    data, scales = quantise_rows(x, weight.input_scale)
    # Scales by row need bfloat16 results.
    out: Tensor = torch._scaled_mm(  # noqa: SLF001 - torch has no other name for it
        data, weight.data.t(), scales[:, None], weight.scale[None, :], out_dtype=torch.bfloat16
    )
    out = out if bias is None else out + bias
    return out.to(x.dtype)


def fp8_linear_reference(x: Tensor, weight: Fp8Weight, bias: Tensor | None = None) -> Tensor:
    """Return what `fp8_linear` does, from the dequantised numbers in float32."""
    data, scales = quantise_rows_reference(x, weight.input_scale)
    wide = data.to(torch.float32) @ weight.data.to(torch.float32).t()
    out = wide * scales[:, None] * weight.scale[None, :]
    out = out if bias is None else out + bias.to(torch.float32)
    return out.to(x.dtype)


def settings(n: int) -> dict[str, int]:
    """Return the launch settings for rows of `n` elements: a row is one block of one program."""
    block = 1 << max(n - 1, 1).bit_length()
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def launch(x: Tensor, scale: Tensor | None, out: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Run the Triton kernel over the rows of `x` into `out` and `scales`."""
    if x.shape[0]:
        n = x.shape[1]
        fixed = scales if scale is None else scale
        strides = (x.stride(0), out.stride(0))
        quantise_rows_kernel[(x.shape[0],)](
            x, fixed, out, scales, *strides, n, FIXED=scale is not None, LIMIT=E4M3_MAX, **settings(n)
        )
    return out, scales


@kernel
def quantise_rows_kernel(
    x: tl.tensor,
    fixed: tl.tensor,
    out: tl.tensor,
    scales: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    n: tl.tensor,
    FIXED: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out = clamp(x / s, -448, 448)``, ``s = max |x| / 448`` over the row, or the given one if FIXED."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < n
    wide = tl.load(x + row * x_stride + place, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(fixed) if FIXED else tl.div_rn(tl.max(tl.abs(wide), 0), LIMIT)
    scale = tl.where(scale > 0, scale, 1.0)
    scaled = tl.clamp(tl.div_rn(wide, scale), -LIMIT, LIMIT)
    tl.store(out + row * out_stride + place, scaled.to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)
