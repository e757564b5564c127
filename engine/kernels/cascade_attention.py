"""Decode attention that reads the pages which several sequences share once for all of them: cascade.

The rows of the sequences of a group, times the query heads that share a KV head, fill tiles as those of a
prefill do, and walk over the group's shared pages. The tiles of keys of all (group, KV head, tile of rows)
lie in one line that a fixed grid of programs cuts into equal stretches. What comes of it is where the kernels
of `engine.kernels.decode_attention` begin each of these sequences, to go on with the pages of its own. The
groups are on the device, so one captured graph serves all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from engine.kernels import decode_attention, prefill_attention
from engine.kernels.backend import kernel, tl, use_triton
from engine.kernels.block_attention import (
    LOG2E,
    SEARCH,
    check,
    find_last,
    is_hopper,
    merge_parts,
    multiprocessors,
    padded,
    scan_tile,
    stretch,
)

if TYPE_CHECKING:
    from torch import Tensor


class SharedPages(NamedTuple):
    """Which sequences of a step gqa_group their first pages, as int32 tensors; B sequences, G groups at most.

    Attributes
    ----------
    shared
        [B]: leading pages of each sequence that all of its group have; 0 in no group.
    members, start
        [B], [G + 1]: group g has the sequences ``members[start[g]]`` to before ``members[start[g + 1]]``.
        Every sequence is in one group at most, and no group shares more pages than a member's context fills.
        Unused groups have no members; members past ``start[G]`` are not looked at.
    """

    shared: Tensor
    members: Tensor
    start: Tensor


def cascade_attention(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    pages: SharedPages,
    *,
    scale: float,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    programs: int | None = None,
) -> Tensor:
    """Return ``softmax(scale q k^T) v`` for one query per sequence, the last of its context.

    With ``o_P``, ``s_P`` the result over the shared pages and the logarithm of its sum of exponentials, and
    ``o_j``, ``s_j`` those of the parts of the sequence's own pages::

        out = exp(s_P - s) o_P + sum_j exp(s_j - s) o_j ,  s = log(exp(s_P) + sum_j exp(s_j))

    Parameters
    ----------
    q, cache, block_table, context, scale, out, scales, programs
        See `engine.kernels.decode_attention.decode_attention`. There is no window: layers that have one do
        not see the beginning of a long context.
    pages
        The groups. The pages of a group are those of its first member's block table.

    Notes
    -----
    Juravsky et al., "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024; Ye et al.,
    "FlashInfer", 2025 (composable formats).
    """
    if not use_triton(q):
        return cascade_attention_reference(
            q, cache, block_table, context, pages, scale=scale, out=out, scales=scales
        )
    out = torch.empty_like(q) if out is None else out
    check(q, cache, scales, out)
    return launch(q, cache, block_table, context, pages, scale, out, scales, programs)


def cascade_attention_reference(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    pages: SharedPages,
    *,
    scale: float,
    out: Tensor | None = None,
    scales: Tensor | None = None,
    programs: int | None = None,
) -> Tensor:
    """Do what `cascade_attention` does, by torch operations in float32: right, not fast.

    All that is read from device tensors stays there, so this could be captured in a graph as well.
    """
    del programs
    table = shared_table(block_table, pages)
    return decode_attention.decode_attention_reference(
        q, cache, table, context, scale=scale, out=out, scales=scales
    )


def shared_table(block_table: Tensor, pages: SharedPages) -> Tensor:
    """Return the block tables that are read: shared pages from the group's first member, the rest as it is.

    int32 [B, P], equal to `block_table` where the groups are right.
    """
    rows, width = block_table.shape
    every = torch.arange(rows + 1, device=block_table.device)
    group = torch.searchsorted(pages.start[1:].contiguous(), every[:rows].to(torch.int32), right=True)
    begin = pages.start[group.clamp(max=pages.start.shape[0] - 1)].to(torch.int64)
    members = pages.members.to(torch.int64)
    # Members that are not looked at may be any number.
    row = torch.where(every[:rows] < pages.start[-1], members, rows)
    leader = every.scatter(0, row, members[begin.clamp(max=rows - 1)])[:rows]
    common = torch.arange(width, device=block_table.device) < pages.shared[:, None]
    return torch.where(common, block_table[leader], block_table)


def settings(dim: int, gqa_group: int, element_bytes: int = 2, *, hopper: bool) -> dict[str, int]:
    """Return the launch settings for heads of `dim` elements, `gqa_group` of them over each KV head.

    Tiles are those of prefill, whose inner loop is the same; all heads of a sequence are in one. LEAST is
    the fewest tiles that are worth a program of their own.
    """
    chosen = prefill_attention.settings(dim, element_bytes, hopper=hopper)
    return {**chosen, "ROWS": max(chosen["ROWS"], padded(gqa_group)), "LEAST": 4}


def launch(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    pages: SharedPages,
    scale: float,
    out: Tensor,
    scales: Tensor | None,
    programs: int | None,
) -> Tensor:
    """Run the three kernels over the shared pages, and those of decode over the rest."""
    count, heads, dim = q.shape
    _, _, kv_heads, page_size, _ = cache.shape
    gqa_group, groups = heads // kv_heads, pages.start.shape[0] - 1
    if not count:
        return out
    chosen = settings(dim, gqa_group, q.element_size(), hopper=is_hopper(q.device))
    rows, tile, least = chosen["ROWS"], chosen["TILE"], chosen["LEAST"]
    grid = (programs or multiprocessors(q.device),)
    starts = torch.empty(groups + 1, dtype=torch.int32, device=q.device)
    partial = torch.empty((2 * grid[0], rows, dim), dtype=torch.float32, device=q.device)
    logs = torch.empty((2 * grid[0], rows), dtype=torch.float32, device=q.device)
    result = torch.empty((count, heads, dim), dtype=torch.float32, device=q.device)
    result_logs = torch.empty((count, heads), dtype=torch.float32, device=q.device)
    prior = decode_attention.Prior(pages.shared, result, result_logs)
    cut = {"EACH": rows // gqa_group, "PAGE": page_size, "SEARCH": SEARCH}
    shape = {"KV_HEADS": kv_heads, "GQA_GROUP": gqa_group, "DIM": dim, "WIDTH": padded(dim), **cut}
    cascade_work_kernel[(1,)](*pages, starts, groups, TILE=tile, **cut, num_warps=4)
    cascade_prefix_kernel[grid](
        q, cache, block_table, *pages, starts, result_logs if scales is None else scales,
        result, result_logs, partial, logs,
        groups, q.stride(0), block_table.stride(0), scale * LOG2E,
        FP8=scales is not None, **shape, **chosen,
    )  # fmt: skip
    cascade_merge_kernel[grid](
        *pages, starts, partial, logs, result, result_logs, groups,
        TILE=tile, ROWS=rows, LEAST=least, **shape, num_warps=8,
    )  # fmt: skip
    return decode_attention.launch(
        q, cache, block_table, context, scale, 0, out, scales, programs, prior=prior
    )


@kernel
def cascade_work_kernel(
    shared: tl.tensor,
    members: tl.tensor,
    group_start: tl.tensor,
    starts: tl.tensor,
    groups: tl.tensor,
    EACH: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Write ``starts[g]``: tiles per KV head of all groups before g; ``starts[groups]`` is that of all."""
    total = 0
    tl.store(starts, 0)
    for begin in range(0, groups, SEARCH):
        place = begin + tl.arange(0, SEARCH)
        first = tl.load(group_start + place, mask=place < groups, other=0)
        size = tl.load(group_start + place + 1, mask=place < groups, other=0) - first
        leader = tl.load(members + first, mask=size > 0, other=0)
        length = tl.load(shared + leader, mask=size > 0, other=0) * PAGE
        tiles = (length + TILE - 1) // TILE * ((size + EACH - 1) // EACH)
        tl.store(starts + 1 + place, total + tl.cumsum(tiles, 0), mask=place < groups)
        total += tl.sum(tiles, 0)


@kernel
def find_unit(
    tile: tl.tensor,
    group: tl.tensor,
    shared: tl.tensor,
    members: tl.tensor,
    group_start: tl.tensor,
    starts: tl.tensor,
    KV_HEADS: tl.constexpr,
    EACH: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
) -> Any:  # noqa: ANN401
    """Return the unit that a tile of a group is in: its first tile, how many it has, head, members, keys.

    A unit is one KV head of EACH members; those of one head follow each other, as they read the same keys.
    Of the members the first one's place in `members` is returned, and how many there are, up to EACH.
    """
    first = tl.load(group_start + group)
    size = tl.load(group_start + group + 1) - first
    leader = tl.load(members + first).to(tl.int64)
    length = tl.load(shared + leader) * PAGE
    tiles = tl.cdiv(length, TILE)
    before = tl.load(starts + group) * KV_HEADS
    index = (tile - before) // tiles
    blocks = tl.cdiv(size, EACH)
    block = index % blocks
    return (
        before + index * tiles,
        tiles,
        index // blocks,
        first + block * EACH,
        tl.minimum(size - block * EACH, EACH),
        leader,
        length,
    )


@kernel
def find_rows(
    members: tl.tensor,
    begin: tl.tensor,
    count: tl.tensor,
    head: tl.tensor,
    GQA_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
) -> Any:  # noqa: ANN401
    """Return sequence and query head of each row of a unit's tile, and which rows are used.

    Rows past the last member stand for it.
    """
    row = tl.arange(0, ROWS)
    line = tl.load(members + begin + tl.minimum(row // GQA_GROUP, count - 1)).to(tl.int64)
    return line, head * GQA_GROUP + row % GQA_GROUP, row < count * GQA_GROUP


@kernel
def cascade_prefix_kernel(
    q: tl.tensor,
    cache: tl.tensor,
    table: tl.tensor,
    shared: tl.tensor,
    members: tl.tensor,
    group_start: tl.tensor,
    starts: tl.tensor,
    scales: tl.tensor,
    result: tl.tensor,
    result_logs: tl.tensor,
    partial: tl.tensor,
    logs: tl.tensor,
    groups: tl.tensor,
    q_stride: tl.tensor,
    table_stride: tl.tensor,
    factor: tl.tensor,
    KV_HEADS: tl.constexpr,
    GQA_GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    FP8: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    LEAST: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Attend over this program's stretch of tiles, unit by unit: see `find_unit`.

    A unit that lies within the stretch goes to `result`. Else its part goes to `partial`, with the logarithm
    of its norm: at ``2 program + 1`` if the unit begins in this stretch, at ``2 program`` if it began before.
    """
    program = tl.program_id(0)
    everything, each = stretch(starts, groups, KV_HEADS, LEAST)
    tile = program * each
    end = tl.minimum(tile + each, everything)
    row, dim = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    group = find_last(starts, groups, tile // KV_HEADS, SEARCH)
    while tile < end:
        unit, tiles, head, begin, count, leader, length = find_unit(
            tile, group, shared, members, group_start, starts, KV_HEADS, EACH, PAGE, TILE
        )
        until = tl.minimum(unit + tiles, end)
        line, column, kept = find_rows(members, begin, count, head, GQA_GROUP, ROWS)
        used = kept[:, None] & (dim < DIM)[None, :]
        place = (line * q_stride + column * DIM)[:, None] + dim[None, :]
        query = tl.load(q + place, mask=used, other=0.0)
        gain = factor
        if FP8:
            gain = factor * tl.load(scales + head)
        pages = table + leader * table_stride
        position = tl.zeros([ROWS], tl.int32) + length - 1
        total = tl.zeros([ROWS, WIDTH], tl.float32)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        norm = tl.zeros([ROWS], tl.float32)
        whole = tl.minimum(until - unit, length // TILE)
        for i in range(tile - unit, whole):
            total, top, norm = scan_tile(
                query, total, top, norm, cache, pages, head, i * TILE, length,
                position, gain, MASK=False, WINDOW=0,
                KV_HEADS=KV_HEADS, DIM=DIM, PAGE=PAGE, TILE=TILE, WIDTH=WIDTH,
            )  # fmt: skip
        # The last tile, where it is not full.
        for i in range(tl.maximum(tile - unit, whole), until - unit):
            total, top, norm = scan_tile(
                query, total, top, norm, cache, pages, head, i * TILE, length,
                position, gain, MASK=True, WINDOW=0,
                KV_HEADS=KV_HEADS, DIM=DIM, PAGE=PAGE, TILE=TILE, WIDTH=WIDTH,
            )  # fmt: skip
        log = top + tl.log2(norm)
        mean = total / norm[:, None]
        if until - tile == tiles:
            target = line * (KV_HEADS * GQA_GROUP) + column
            tl.store(result + (target * DIM)[:, None] + dim[None, :], mean, mask=used)
            tl.store(result_logs + target, log, mask=kept)
        else:
            part = (2 * program + (tile == unit).to(tl.int32)) * ROWS + row
            tl.store(partial + (part * DIM)[:, None] + dim[None, :], mean, mask=(dim < DIM)[None, :])
            tl.store(logs + part, log)
        tile = until
        # The last start that is not beyond the next tile: groups without tiles are passed over.
        while (group < groups - 1) & (tl.load(starts + group + 1) * KV_HEADS <= tile):
            group += 1


@kernel
def cascade_merge_kernel(
    shared: tl.tensor,
    members: tl.tensor,
    group_start: tl.tensor,
    starts: tl.tensor,
    partial: tl.tensor,
    logs: tl.tensor,
    result: tl.tensor,
    result_logs: tl.tensor,
    groups: tl.tensor,
    KV_HEADS: tl.constexpr,
    GQA_GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    LEAST: tl.constexpr,
    SEARCH: tl.constexpr,
) -> None:
    """Merge the unit that begins in this program's stretch and ends in another's."""
    program = tl.program_id(0)
    everything, each = stretch(starts, groups, KV_HEADS, LEAST)
    end = (program + 1) * each
    dim = tl.arange(0, WIDTH)
    if end < everything:
        group = find_last(starts, groups, (end - 1) // KV_HEADS, SEARCH)
        unit, tiles, head, begin, count, _, _ = find_unit(
            end - 1, group, shared, members, group_start, starts, KV_HEADS, EACH, PAGE, TILE
        )
        if (unit >= program * each) & (unit + tiles > end):
            last = (unit + tiles - 1) // each
            merged, log = merge_parts(program, last, partial, logs, ROWS, DIM, ROWS, WIDTH)
            line, column, kept = find_rows(members, begin, count, head, GQA_GROUP, ROWS)
            place = line * (KV_HEADS * GQA_GROUP) + column
            used = kept[:, None] & (dim < DIM)[None, :]
            tl.store(result + (place * DIM)[:, None] + dim[None, :], merged, mask=used)
            tl.store(result_logs + place, log, mask=kept)
