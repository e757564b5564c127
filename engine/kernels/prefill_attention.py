"""Causal attention of sequences with any number of new tokens over their block tables: prefill.

The query heads that share a KV head are packed beside each other: a tile of rows is some tokens times these
heads, so that short chunks fill it too and keys are read once for all of them. A fixed grid of programs draws
(sequence, KV head, tile) items from a counter on the device, the longest of a head first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.kernels.backend import kernel, tl, use_triton
from engine.kernels.block_attention import (
    LOG2E,
    SEARCH,
    attend_reference,
    check,
    find_last,
    is_hopper,
    multiprocessors,
    padded,
    scan_tile,
)

if TYPE_CHECKING:
    from torch import Tensor


def prefill_attention(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context: Tensor,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    programs: int | None = None,
) -> Tensor:
    """Return causal attention for sequences of any number of rows; the last row sees the whole context.

    Row r of a sequence with n rows and a context of c stands at place ``p = c - n + r`` and gives::

        out_r = sum_j softmax_j(scale q_r k_j) v_j   over the places j <= p, with a window j > p - window

    Parameters
    ----------
    q
        [tokens, heads, head dim]; the dimensions of a row are contiguous.
    cache
        One layer's cache [pages, 2, kv heads, page size, head dim], contiguous; it holds this step's KV.
    block_table
        int32 [S, P]: pages of each sequence; entries past its context may be any page that exists.
    query_start
        int32 [S + 1]: sequence i has the rows from ``query_start[i]`` to before ``query_start[i + 1]``. Rows
        of no sequence are left as they are in `out`.
    context
        int32 [S]: tokens of the sequence, this step's included.
    scale, window
        Factor of the scores, above 0; how many of the last tokens are seen, None for all.
    out
        [tokens, heads, head dim], written and returned; made here if None.
    scales
        float32 [2, kv heads]: of an e4m3 cache (`engine.kernels.fp8`), only with one.
    programs
        Size of the grid, to leave multiprocessors to other work; None takes the device.

    Notes
    -----
    Dao, "FlashAttention-2", 2023 (tiles); Kwon et al., "Efficient Memory Management for LLM Serving with
    PagedAttention", 2023 (pages).
    """
    if not use_triton(q):
        return prefill_attention_reference(
            q, cache, block_table, query_start, context, scale=scale, window=window, out=out, scales=scales
        )
    out = torch.empty_like(q) if out is None else out
    check(q, cache, scales, out)
    return launch(q, cache, block_table, query_start, context, scale, window or 0, out, scales, programs)


def prefill_attention_reference(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context: Tensor,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    programs: int | None = None,
) -> Tensor:
    """Do what `prefill_attention` does, by torch operations in float32: right, not fast.

    All lengths are read from device tensors, so this could be captured in a graph as well.
    """
    del programs
    out = torch.empty_like(q) if out is None else out
    rows = torch.arange(q.shape[0], device=q.device)
    for i in range(context.shape[0]):
        first, end = query_start[i].to(torch.int64), query_start[i + 1].to(torch.int64)
        last = context[i].to(torch.int64) - 1
        position = (last + 1 - (end - rows)).minimum(last)
        result = attend_reference(q, cache, block_table[i], position, scale, window, scales).to(q.dtype)
        inside = (rows >= first) & (rows < end)
        # Rows of others have meaningless positions; what came of them is not looked at.
        out.copy_(torch.where(inside[:, None, None], result, out))
    return out


def settings(dim: int, element_bytes: int = 2, *, hopper: bool) -> dict[str, int]:
    """Return the launch settings for heads of `dim` elements: 128 rows by 64 keys, less for large heads.

    Before Hopper the products take their operands from registers, which leaves room for 32 keys. A page
    number is loaded two stages before the keys it leads to: fewer than 5 stages keep no tile in flight.
    Numbers of 4 bytes are multiplied without tensor cores, from registers: small tiles, or they spill.
    """
    if element_bytes == 4:
        rows = 32 if padded(dim) <= 128 else 16
        return {"ROWS": rows, "TILE": rows, "num_warps": 4, "num_stages": 2}
    if padded(dim) > 128:
        return {"ROWS": 64, "TILE": 32, "num_warps": 8, "num_stages": 5}
    return {"ROWS": 128, "TILE": 64 if hopper else 32, "num_warps": 8, "num_stages": 5}


def launch(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context: Tensor,
    scale: float,
    window: int,
    out: Tensor,
    scales: Tensor | None,
    programs: int | None,
) -> Tensor:
    """Run the two kernels: the work list with its counter, and the items of it."""
    _, heads, dim = q.shape
    _, _, kv_heads, page_size, _ = cache.shape
    gqa_group, count = heads // kv_heads, context.shape[0]
    if not q.shape[0] or not count:
        return out
    chosen = settings(dim, q.element_size(), hopper=is_hopper(q.device))
    work = torch.empty(count + 2, dtype=torch.int32, device=q.device)
    prefill_work_kernel[(1,)](
        query_start, work, count, GQA_GROUP=gqa_group, ROWS=chosen["ROWS"], SEARCH=SEARCH, num_warps=4
    )
    prefill_attention_kernel[(programs or multiprocessors(q.device),)](
        q, cache, block_table, query_start, context, work, out if scales is None else scales, out,
        count, q.stride(0), block_table.stride(0), out.stride(0), scale * LOG2E,
        KV_HEADS=kv_heads, GQA_GROUP=gqa_group, DIM=dim, PAGE=page_size, WINDOW=window,
        FP8=scales is not None, WIDTH=padded(dim), SEARCH=SEARCH, **chosen,
    )  # fmt: skip
    return out


@kernel
def prefill_work_kernel(
    query_start: tl.tensor,
    work: tl.tensor,
    count: tl.tensor,
    GQA_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Write the tiles per KV head of all sequences before i, of all, and 0: the items drawn so far."""
    total = 0
    tl.store(work, 0)
    for begin in range(0, count, SEARCH):
        place = begin + tl.arange(0, SEARCH)
        inside = place < count
        first = tl.load(query_start + place, mask=inside, other=0)
        rows = (tl.load(query_start + place + 1, mask=inside, other=0) - first) * GQA_GROUP
        tiles = (rows + ROWS - 1) // ROWS
        tl.store(work + 1 + place, total + tl.cumsum(tiles, 0), mask=inside)
        total += tl.sum(tiles, 0)
    tl.store(work + count + 1, 0)


@kernel
def prefill_attention_kernel(
    q: tl.tensor,
    cache: tl.tensor,
    table: tl.tensor,
    query_start: tl.tensor,
    context: tl.tensor,
    work: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
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
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Draw items until there are none left.

    Row i of a tile is token ``i // GQA_GROUP``, head ``i % GQA_GROUP`` of the KV head's group.
    """
    everything = tl.load(work + count) * KV_HEADS
    dim = tl.arange(0, WIDTH)
    item = tl.atomic_add(work + count + 1, 1)
    while item < everything:
        sequence = find_last(work, count, item // KV_HEADS, SEARCH)
        before = tl.load(work + sequence)
        tiles = tl.load(work + sequence + 1) - before
        head = (item - before * KV_HEADS) // tiles
        # The last tile has the most keys to see.
        tile = tiles - 1 - (item - before * KV_HEADS) % tiles
        first = tl.load(query_start + sequence)
        tokens = tl.load(query_start + sequence + 1) - first
        length = tl.load(context + sequence)
        prefix = length - tokens
        row = tile * ROWS + tl.arange(0, ROWS)
        # Rows past the last token stand for it, so that they see something.
        token = tl.minimum(row // GQA_GROUP, tokens - 1)
        position = prefix + token
        least = prefix + tile * ROWS // GQA_GROUP
        most = prefix + tl.minimum((tile * ROWS + ROWS - 1) // GQA_GROUP, tokens - 1)
        used = (row < tokens * GQA_GROUP)[:, None] & (dim < DIM)[None, :]
        line, column = (
            (first + token).to(tl.int64),
            ((head * GQA_GROUP + row % GQA_GROUP) * DIM)[:, None] + dim[None, :],
        )
        query = tl.load(q + (line * q_stride)[:, None] + column, mask=used, other=0.0)
        gain, undo = factor, 1.0
        if FP8:
            gain = factor * tl.load(scales + head)
            undo = tl.load(scales + KV_HEADS + head)
        pages = table + sequence.to(tl.int64) * table_stride
        total = tl.zeros([ROWS, WIDTH], tl.float32)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        norm = tl.zeros([ROWS], tl.float32)
        masked = (least + 1) // TILE
        if WINDOW:
            masked = tl.maximum(least + 1 - WINDOW, 0) // TILE
        else:
            # Every row sees all of these.
            for i in range(masked):
                total, top, norm = scan_tile(
                    query, total, top, norm, cache, pages, head, i * TILE, length,
                    position, gain, MASK=False, WINDOW=WINDOW,
                    KV_HEADS=KV_HEADS, DIM=DIM, PAGE=PAGE, TILE=TILE, WIDTH=WIDTH,
                )  # fmt: skip
        for i in range(masked, most // TILE + 1):
            total, top, norm = scan_tile(
                query, total, top, norm, cache, pages, head, i * TILE, length,
                position, gain, MASK=True, WINDOW=WINDOW,
                KV_HEADS=KV_HEADS, DIM=DIM, PAGE=PAGE, TILE=TILE, WIDTH=WIDTH,
            )  # fmt: skip
        target = out + (line * out_stride)[:, None] + column
        tl.store(target, (total * (undo / norm)[:, None]).to(out.dtype.element_ty), mask=used)
        item = tl.atomic_add(work + count + 1, 1)
