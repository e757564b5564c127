"""Attention of sequences with one new token each over their block tables: decode.

The keys of every (sequence, KV head) are cut into tiles, all tiles are laid in one line, and each program of
a fixed grid takes an equal stretch of it. So the number of splits of a sequence follows from the lengths on
the device, no program has more to read than another, and one captured graph serves all lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.kernels.backend import kernel, tl, use_triton
from engine.kernels.block_attention import (
    LOG2E,
    SEARCH,
    attend_reference,
    check,
    find_last,
    merge_parts,
    multiprocessors,
    padded,
    scan_tile,
    stretch,
)

if TYPE_CHECKING:
    from torch import Tensor


class Prior(NamedTuple):
    """What is known of the first pages of some sequences before a launch, which then reads the rest only.

    Attributes
    ----------
    shared
        int32 [B]: leading pages of each sequence that are known, 0 if none.
    result, logs
        float32 [B, heads, head dim] and [B, heads]: attention over the places of these pages, before the
        values' scale if there is one, and the logarithm to the base 2 of its sum of exponentials. Those of
        sequences without such pages are not looked at.
    """

    shared: Tensor
    result: Tensor
    logs: Tensor


def decode_attention(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    programs: int | None = None,
) -> Tensor:
    """Return ``softmax(scale q k^T) v`` for one query per sequence, the last of its context.

    With the keys of a sequence split into parts j, each with its own result ``o_j`` and logarithm ``s_j`` of
    its sum of exponentials::

        out = sum_j exp(s_j - s) o_j ,  s = log sum_j exp(s_j)

    Parameters
    ----------
    q
        [B, heads, head dim]; the dimensions of a row are contiguous.
    cache
        One layer's cache [pages, 2, kv heads, page size, head dim], contiguous.
    block_table
        int32 [B, P]: pages of each sequence; entries past its context may be any page that exists.
    context
        int32 [B]: tokens of the sequence, this step's included. With 0 the row is padding and gives zeros.
    scale, window
        Factor of the scores, above 0; how many of the last tokens are seen, None for all.
    out
        [B, heads, head dim], written and returned; made here if None.
    scales
        float32 [2, kv heads]: of an e4m3 cache (`engine.kernels.fp8`), only with one.
    programs
        Size of the grid, to leave multiprocessors to other work; None takes the device.

    Notes
    -----
    Dao et al., "Flash-Decoding for long-context inference", 2023 (split keys); Osama et al., "Stream-K", 2023
    (equal stretches of all tiles).
    """
    if not use_triton(q):
        return decode_attention_reference(
            q, cache, block_table, context, scale=scale, window=window, out=out, scales=scales
        )
    out = torch.empty_like(q) if out is None else out
    check(q, cache, scales, out)
    return launch(q, cache, block_table, context, scale, window or 0, out, scales, programs)


def decode_attention_reference(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    programs: int | None = None,
) -> Tensor:
    """Do what `decode_attention` does, by torch operations in float32: right, not fast.

    All lengths are read from device tensors, so this could be captured in a graph as well.
    """
    del programs
    out = torch.empty_like(q) if out is None else out
    for i in range(q.shape[0]):
        last = context[i : i + 1].to(torch.int64) - 1
        row = attend_reference(q[i : i + 1], cache, block_table[i], last, scale, window, scales)
        out[i : i + 1] = row.to(q.dtype)
    return out


def settings(dim: int, element_bytes: int = 2) -> dict[str, int]:
    """Return the launch settings for heads of `dim` elements: up to 16 kB of keys in 16 bits per tile.

    LEAST is the fewest tiles that are worth a program of their own. A page number is loaded two stages before
    the keys it leads to, and these two before they are used: fewer than 5 stages keep no tile in flight.
    Numbers of 4 bytes are multiplied without tensor cores, from registers, which small tiles spare.
    """
    width = padded(dim)
    if element_bytes == 4:
        return {"TILE": 32 if width <= 64 else 16, "LEAST": 4, "num_warps": 4, "num_stages": 2}
    # More than 16 keys of large heads do not fit into the registers.
    tile = min(128, 8192 // width) if width <= 128 else 16
    return {"TILE": tile, "LEAST": 4, "num_warps": 4, "num_stages": 5}


def launch(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    scale: float,
    window: int,
    out: Tensor,
    scales: Tensor | None,
    programs: int | None,
    prior: Prior | None = None,
) -> Tensor:
    """Run the three kernels: the work list, the stretches of tiles, and the merge of what was split."""
    count, heads, dim = q.shape
    _, _, kv_heads, page_size, _ = cache.shape
    gqa_group = heads // kv_heads
    if not count:
        return out
    chosen = settings(dim, q.element_size())
    tile, least = chosen["TILE"], chosen["LEAST"]
    grid = (programs or 2 * multiprocessors(q.device),)
    starts = torch.empty(count + 1, dtype=torch.int32, device=q.device)
    partial = torch.empty((2 * grid[0], gqa_group, dim), dtype=torch.float32, device=q.device)
    logs = torch.empty((2 * grid[0], gqa_group), dtype=torch.float32, device=q.device)
    shape = {
        "KV_HEADS": kv_heads,
        "GQA_GROUP": gqa_group,
        "DIM": dim,
        "ROWS": padded(gqa_group),
        "WIDTH": padded(dim),
        "SEARCH": SEARCH,
    }
    # Without a prior its places are taken by tensors that are not looked at.
    shared, begun, begun_logs = prior or (context, partial, logs)
    decode_work_kernel[(1,)](
        context, shared, starts, count,
        PAGE=page_size, WINDOW=window, SHARED=prior is not None, TILE=tile, SEARCH=SEARCH, num_warps=4,
    )  # fmt: skip
    decode_attention_kernel[grid](
        q, cache, block_table, context, starts, out if scales is None else scales, out, partial, logs,
        shared, begun, begun_logs,
        count, q.stride(0), block_table.stride(0), out.stride(0), scale * LOG2E,
        PAGE=page_size, WINDOW=window, FP8=scales is not None, SHARED=prior is not None, **shape, **chosen,
    )  # fmt: skip
    merge_splits_kernel[grid](
        context, starts, partial, logs, out, count, out.stride(0), LEAST=least, **shape, num_warps=4
    )
    return out


@kernel
def decode_work_kernel(
    context: tl.tensor,
    shared: tl.tensor,
    starts: tl.tensor,
    count: tl.tensor,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    SHARED: tl.constexpr,
    TILE: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Write ``starts[i]``: tiles per KV head of all sequences before i; ``starts[count]`` is that of all.

    With SHARED the first ``shared[i]`` pages are left out, and a sequence of which nothing is left has one
    tile without keys: its result is written there.
    """
    total = 0
    tl.store(starts, 0)
    for begin in range(0, count, SEARCH):
        place = begin + tl.arange(0, SEARCH)
        length = tl.load(context + place, mask=place < count, other=0)
        if SHARED:
            depth = tl.load(shared + place, mask=place < count, other=0)
            length -= depth * PAGE
        tiles = (length + TILE - 1) // TILE
        if WINDOW:
            tiles -= tl.maximum(length - WINDOW, 0) // TILE
        if SHARED:
            tiles = tl.maximum(tiles, (depth > 0).to(tl.int32))
        tl.store(starts + 1 + place, total + tl.cumsum(tiles, 0), mask=place < count)
        total += tl.sum(tiles, 0)


@kernel
def decode_attention_kernel(
    q: tl.tensor,
    cache: tl.tensor,
    table: tl.tensor,
    context: tl.tensor,
    starts: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    logs: tl.tensor,
    shared: tl.tensor,
    prior: tl.tensor,
    prior_logs: tl.tensor,
    count: tl.tensor,
    q_stride: tl.tensor,
    table_stride: tl.tensor,
    out_stride: tl.tensor,
    factor: tl.tensor,
    KV_HEADS: tl.constexpr,
    GQA_GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    FP8: tl.constexpr,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    LEAST: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Attend over this program's stretch of tiles, unit by unit: a unit is one KV head of one sequence.

    A unit that lies within the stretch goes to `out`. Else its part goes to `partial`, with the logarithm of
    its norm: at ``2 program + 1`` if the unit begins in this stretch, at ``2 program`` if it began before.
    With SHARED the first part of a unit begins from its `Prior`, and what is left stands for the whole.
    """
    program = tl.program_id(0)
    everything, each = stretch(starts, count, KV_HEADS, LEAST)
    tile = program * each
    end = tl.minimum(tile + each, everything)
    row, dim = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    used = (row < GQA_GROUP)[:, None] & (dim < DIM)[None, :]
    block = row[:, None] * DIM + dim[None, :]
    sequence = find_last(starts, count, tile // KV_HEADS, SEARCH)
    while tile < end:
        before = tl.load(starts + sequence)
        tiles = tl.load(starts + sequence + 1) - before
        head = (tile - before * KV_HEADS) // tiles
        unit = before * KV_HEADS + head * tiles
        until = tl.minimum(unit + tiles, end)
        length = tl.load(context + sequence)
        skipped = 0
        if WINDOW:
            skipped = tl.maximum(length - WINDOW, 0) // TILE
        wide = sequence.to(tl.int64)
        pages = table + wide * table_stride
        if SHARED:
            depth = tl.load(shared + sequence)
            length -= depth * PAGE
            pages += depth
        query = tl.load(q + wide * q_stride + head * GQA_GROUP * DIM + block, mask=used, other=0.0)
        gain, undo = factor, 1.0
        if FP8:
            gain = factor * tl.load(scales + head)
            undo = tl.load(scales + KV_HEADS + head)
        position = tl.zeros([ROWS], tl.int32) + length - 1
        total = tl.zeros([ROWS, WIDTH], tl.float32)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        norm = tl.zeros([ROWS], tl.float32)
        if SHARED:
            known = (depth > 0) & (tile == unit)
            line = (wide * KV_HEADS + head) * GQA_GROUP
            total = tl.load(prior + line * DIM + block, mask=used & known, other=0.0)
            log = tl.load(prior_logs + line + row, mask=(row < GQA_GROUP) & known, other=0.0)
            top = tl.where(known, log, top)
            norm += tl.where(known, 1.0, 0.0)
        for i in range(skipped + tile - unit, skipped + until - unit):
            total, top, norm = scan_tile(
                query, total, top, norm, cache, pages, head, i * TILE, length,
                position, gain, MASK=True, WINDOW=WINDOW,
                KV_HEADS=KV_HEADS, DIM=DIM, PAGE=PAGE, TILE=TILE, WIDTH=WIDTH,
            )  # fmt: skip
        result = total * (undo / norm)[:, None]
        if until - tile == tiles:
            target = out + wide * out_stride + head * GQA_GROUP * DIM + block
            tl.store(target, result.to(out.dtype.element_ty), mask=used)
        else:
            part = 2 * program + (tile == unit).to(tl.int32)
            tl.store(partial + part * GQA_GROUP * DIM + block, result, mask=used)
            tl.store(logs + part * GQA_GROUP + row, top + tl.log2(norm), mask=row < GQA_GROUP)
        tile = until
        # The last start that is not beyond the next tile: sequences without tiles are passed over.
        while (sequence < count - 1) & (tl.load(starts + sequence + 1) * KV_HEADS <= tile):
            sequence += 1


@kernel
def merge_splits_kernel(
    context: tl.tensor,
    starts: tl.tensor,
    partial: tl.tensor,
    logs: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    out_stride: tl.tensor,
    KV_HEADS: tl.constexpr,
    GQA_GROUP: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEAST: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Merge the unit that begins in this program's stretch and ends in another's; zero rows of no context."""
    program = tl.program_id(0)
    everything, each = stretch(starts, count, KV_HEADS, LEAST)
    begin = program * each
    end = begin + each
    row, dim = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    used = (row < GQA_GROUP)[:, None] & (dim < DIM)[None, :]
    block = row[:, None] * DIM + dim[None, :]
    if end < everything:
        sequence = find_last(starts, count, (end - 1) // KV_HEADS, SEARCH)
        before = tl.load(starts + sequence)
        tiles = tl.load(starts + sequence + 1) - before
        head = (end - 1 - before * KV_HEADS) // tiles
        unit = before * KV_HEADS + head * tiles
        if (unit >= begin) & (unit + tiles > end):
            last = (unit + tiles - 1) // each
            merged, _ = merge_parts(program, last, partial, logs, GQA_GROUP, DIM, ROWS, WIDTH)
            target = out + sequence.to(tl.int64) * out_stride + head * GQA_GROUP * DIM + block
            tl.store(target, merged.to(out.dtype.element_ty), mask=used)
    index = program.to(tl.int64)
    while index < count:
        if tl.load(context + index) <= 0:
            nothing = tl.zeros([ROWS, WIDTH], out.dtype.element_ty)
            for head in range(KV_HEADS):
                tl.store(out + index * out_stride + head * GQA_GROUP * DIM + block, nothing, mask=used)
        index += tl.num_programs(0)
