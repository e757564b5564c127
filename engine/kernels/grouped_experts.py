"""The products of a mixture of experts on a GPU: rows sorted by expert, one launch for all experts.

How many rows an expert has is known on the device alone. So the grid has room for any routing, each program
finds the expert of its tile in a list that a first kernel writes, and those beyond the last tile end at once:
nothing is read back, and a captured graph serves every step of its size. (Gale et al., "MegaBlocks", 2023.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from engine.kernels.backend import kernel, tl
from engine.kernels.block_attention import find_last

if TYPE_CHECKING:
    from torch import Tensor

SEARCH: Final = 128
"""Experts that are looked at together; a model may have more."""
_MOST_ROWS: Final = 128


def launch(
    hidden: Tensor, chosen: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor, out: Tensor
) -> Tensor:
    """Run the kernels over hidden [T, hidden] into `out` of the same shape; see `engine.kernels.experts`.

    Parameters
    ----------
    chosen, shares
        int64 and float32 [T, k]: the experts of each token by rising number, and what counts of each.
    gate_up, down
        [E, 2 inner, hidden] and [E, hidden, inner], contiguous.
    """
    tokens, width = hidden.shape
    experts, _, inner = down.shape
    per_token = chosen.shape[1]
    rows = tokens * per_token
    if not rows:
        return out
    flat = chosen.reshape(-1).to(torch.int32)
    by_expert, order = torch.sort(flat, stable=True)
    order = order.to(torch.int32)
    numbers = torch.arange(experts + 1, dtype=torch.int32, device=hidden.device)
    starts = torch.searchsorted(by_expert, numbers, out_int32=True)
    chosen_settings = settings(rows, experts, hidden.element_size())
    tile_rows, columns = chosen_settings["ROWS"], chosen_settings["COLUMNS"]
    # Every expert that is met may have one tile that is not full.
    tiles = rows // tile_rows + min(experts, rows)
    work = torch.empty(experts + 1, dtype=torch.int32, device=hidden.device)
    wide, parts = hidden.new_empty((rows, inner)), hidden.new_empty((rows, width))
    expert_tiles_kernel[(1,)](starts, work, experts, ROWS=tile_rows, SEARCH=SEARCH, num_warps=4)
    widen_kernel[(tiles, -(-inner // columns))](
        hidden, gate_up, order, starts, work, wide, experts, hidden.stride(0), width, inner,
        PER_TOKEN=per_token, SEARCH=SEARCH, **chosen_settings,
    )  # fmt: skip
    narrow_kernel[(tiles, -(-width // columns))](
        wide, down, shares, order, starts, work, parts, experts, width, inner,
        SEARCH=SEARCH, **chosen_settings,
    )  # fmt: skip
    block = min(1024, 1 << max(width - 1, 1).bit_length())
    add_experts_kernel[(tokens, -(-width // block))](
        parts, out, out.stride(0), width, PER_TOKEN=per_token, BLOCK=block, num_warps=max(1, block // 256)
    )
    return out


def settings(rows: int, experts: int, element_bytes: int = 2) -> dict[str, int]:
    """Return the launch settings for `rows` that `experts` share: a tile has about the rows of one of them.

    Numbers of 4 bytes are multiplied without tensor cores, from registers: small tiles, or they spill.
    """
    if element_bytes == 4:
        return {"ROWS": 16, "COLUMNS": 32, "DEPTH": 32, "num_warps": 4, "num_stages": 2}
    average = max(1, rows // experts)
    tile_rows = min(_MOST_ROWS, max(16, 1 << (average - 1).bit_length()))
    warps = 8 if tile_rows == _MOST_ROWS else 4
    return {"ROWS": tile_rows, "COLUMNS": 64, "DEPTH": 64, "num_warps": warps, "num_stages": 3}


@kernel
def expert_tiles_kernel(
    starts: tl.tensor, work: tl.tensor, experts: tl.tensor, ROWS: tl.constexpr, SEARCH: tl.constexpr
) -> None:
    """Write the tiles of all experts before e, for each e, and last those of all."""
    total = 0
    tl.store(work, 0)
    for begin in range(0, experts, SEARCH):
        place = begin + tl.arange(0, SEARCH)
        inside = place < experts
        first = tl.load(starts + place, mask=inside, other=0)
        rows = tl.load(starts + place + 1, mask=inside, other=0) - first
        tiles = (rows + ROWS - 1) // ROWS
        tl.store(work + 1 + place, total + tl.cumsum(tiles, 0), mask=inside)
        total += tl.sum(tiles, 0)


@kernel
def widen_kernel(
    hidden: tl.tensor,
    gate_up: tl.tensor,
    order: tl.tensor,
    starts: tl.tensor,
    work: tl.tensor,
    wide: tl.tensor,
    experts: tl.tensor,
    hidden_stride: tl.tensor,
    width: tl.tensor,
    inner: tl.tensor,
    PER_TOKEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """``wide[r] = silu(gate_e x) * up_e x`` for the rows of one tile, x being the token of row r."""
    tile = tl.program_id(0)
    if tile < tl.load(work + experts):
        expert = find_last(work, experts, tile, SEARCH)
        row = tl.load(starts + expert) + (tile - tl.load(work + expert)) * ROWS + tl.arange(0, ROWS)
        inside = row < tl.load(starts + expert + 1)
        token = (tl.load(order + row, mask=inside, other=0) // PER_TOKEN).to(tl.int64)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        used = column < inner
        gates = gate_up + expert.to(tl.int64) * 2 * inner * width
        ups = gates + inner.to(tl.int64) * width
        gate = tl.zeros([ROWS, COLUMNS], tl.float32)
        up = tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(0, width, DEPTH):
            depth = begin + tl.arange(0, DEPTH)
            known = depth < width
            x = tl.load(
                hidden + (token * hidden_stride)[:, None] + depth[None, :],
                mask=inside[:, None] & known[None, :],
                other=0.0,
            )
            place = column.to(tl.int64)[None, :] * width + depth[:, None]
            there = used[None, :] & known[:, None]
            gate = tl.dot(x, tl.load(gates + place, mask=there, other=0.0), gate, input_precision="ieee")
            up = tl.dot(x, tl.load(ups + place, mask=there, other=0.0), up, input_precision="ieee")
        result = gate / (1.0 + tl.exp(-gate)) * up
        target = wide + row.to(tl.int64)[:, None] * inner + column[None, :]
        tl.store(target, result.to(wide.dtype.element_ty), mask=inside[:, None] & used[None, :])


@kernel
def narrow_kernel(
    wide: tl.tensor,
    down: tl.tensor,
    shares: tl.tensor,
    order: tl.tensor,
    starts: tl.tensor,
    work: tl.tensor,
    parts: tl.tensor,
    experts: tl.tensor,
    width: tl.tensor,
    inner: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """``parts[order[r]] = share * down_e wide[r]`` for the rows of one tile."""
    tile = tl.program_id(0)
    if tile < tl.load(work + experts):
        expert = find_last(work, experts, tile, SEARCH)
        row = tl.load(starts + expert) + (tile - tl.load(work + expert)) * ROWS + tl.arange(0, ROWS)
        inside = row < tl.load(starts + expert + 1)
        source = tl.load(order + row, mask=inside, other=0)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        used = column < width
        weights = down + expert.to(tl.int64) * width * inner
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(0, inner, DEPTH):
            depth = begin + tl.arange(0, DEPTH)
            known = depth < inner
            x = tl.load(
                wide + row.to(tl.int64)[:, None] * inner + depth[None, :],
                mask=inside[:, None] & known[None, :],
                other=0.0,
            )
            place = column.to(tl.int64)[None, :] * inner + depth[:, None]
            there = used[None, :] & known[:, None]
            total = tl.dot(x, tl.load(weights + place, mask=there, other=0.0), total, input_precision="ieee")
        total *= tl.load(shares + source, mask=inside, other=0.0)[:, None]
        target = parts + source.to(tl.int64)[:, None] * width + column[None, :]
        tl.store(target, total.to(parts.dtype.element_ty), mask=inside[:, None] & used[None, :])


@kernel
def add_experts_kernel(
    parts: tl.tensor,
    out: tl.tensor,
    out_stride: tl.tensor,
    width: tl.tensor,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``out[t] = parts[k t] + ... + parts[k t + k - 1]``, in this order, for BLOCK elements of one token."""
    token = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    total = tl.zeros([BLOCK], tl.float32)
    for expert in range(PER_TOKEN):
        part = parts + (token * PER_TOKEN + expert) * width
        total += tl.load(part + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * out_stride + place, total.to(out.dtype.element_ty), mask=inside)
