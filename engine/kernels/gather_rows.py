"""Picks the rows of the hidden states that are sampled: the last token of each sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.kernels.backend import kernel, tl, use_triton

if TYPE_CHECKING:
    from torch import Tensor


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return ``x[rows]``: x [tokens, n], rows int32 or int64 [r] -> [r, n]."""
    if not use_triton(x):
        return gather_rows_reference(x, rows)
    return launch(x, rows, x.new_empty((rows.shape[0], x.shape[1])))


def gather_rows_reference(x: Tensor, rows: Tensor) -> Tensor:
    """Return what `gather_rows` does, by torch operations."""
    return x[rows]


def settings(n: int) -> dict[str, int]:
    """Return the launch settings for rows of `n` elements: 8 elements per thread and access."""
    block = min(2048, 1 << max(n - 1, 1).bit_length())
    return {"BLOCK": block, "num_warps": max(1, block // 256)}


def launch(x: Tensor, rows: Tensor, out: Tensor) -> Tensor:
    """Run the Triton kernel over `rows` of `x` into `out`."""
    if rows.shape[0]:
        n, chosen = x.shape[1], settings(x.shape[1])
        grid = (rows.shape[0], -(-n // chosen["BLOCK"]))
        gather_rows_kernel[grid](x, rows, out, x.stride(0), out.stride(0), n, **chosen)
    return out


@kernel
def gather_rows_kernel(
    x: tl.tensor,
    rows: tl.tensor,
    out: tl.tensor,
    x_stride: tl.tensor,
    out_stride: tl.tensor,
    n: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """``out[i] = x[rows[i]]`` for BLOCK elements of one row."""
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(rows + row).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = tl.load(x + source * x_stride + place, mask=inside, other=0.0)
    tl.store(out + row * out_stride + place, value, mask=inside)
