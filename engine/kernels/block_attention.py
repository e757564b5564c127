"""What the attentions over block tables share: the float32 reference and parts of the kernels.

All kernels walk over a sequence's keys in tiles and keep, per query row, the largest score so far, the sum
of exponentials and the weighted sum of values, rescaled when the largest score changes (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch

from engine.kernels.backend import kernel, tl
from engine.kernels.fp8 import dequantise_kv

if TYPE_CHECKING:
    from torch import Tensor

LOG2E: Final = math.log2(math.e)
"""Folded into the scale of the scores, so that the kernels take powers of two."""
SEARCH: Final = 1024
"""Sequences that one operation of the work lists covers."""
INTERPRETED_PROGRAMS: Final = 1
"""Stands for the number of multiprocessors in the interpreter, where every program costs time."""


def padded(n: int) -> int:
    """Return the power of two that a matrix product pads `n` rows or dimensions to, at least 16."""
    return max(16, 1 << (n - 1).bit_length())


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """Return how many blocks of a persistent grid run beside each other, one per multiprocessor."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache
def is_hopper(device: torch.device) -> bool:
    """Return whether the device multiplies from shared memory by groups of warps (sm_90 and later)."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


def check(q: Tensor, cache: Tensor, scales: Tensor | None, out: Tensor) -> None:
    """Refuse what the kernels' address arithmetic does not cover.

    Raises
    ------
    ValueError
        If heads or head dimensions do not fit together, or a tensor is not laid out as it must be.
    """
    _, heads, dim = q.shape
    if heads % cache.shape[2] or dim != cache.shape[4] or out.shape != q.shape:
        raise ValueError(
            f"q {tuple(q.shape)}, cache {tuple(cache.shape)} and out {tuple(out.shape)} do not fit together"
        )
    if not cache.is_contiguous() or any(x.stride()[1:] != (dim, 1) for x in (q, out)):
        raise ValueError("the cache must be contiguous, and so must each row of q and out")
    if (scales is not None) != (cache.dtype == torch.float8_e4m3fn):
        raise ValueError(f"scales go with an e4m3 cache, and only with it; this one is {cache.dtype}")


def attend_reference(
    q: Tensor,
    cache: Tensor,
    pages: Tensor,
    position: Tensor,
    scale: float,
    window: int | None,
    scales: Tensor | None,
) -> Tensor:
    """Return float32 [n, heads, dim]: q [n, heads, dim] at `position` int64 [n] over one sequence's pages.

    Rows at negative positions see nothing and give zeros.
    """
    n, heads, dim = q.shape
    kv_heads = cache.shape[2]
    # Numbers of one byte cannot be picked by index everywhere, only bytes.
    held = cache.view(torch.uint8) if scales is not None else cache
    gathered = held[pages.to(torch.int64)].view(cache.dtype)
    wide = gathered.to(torch.float32) if scales is None else dequantise_kv(gathered, scales)
    k, v = (wide[:, i].permute(1, 0, 2, 3).reshape(kv_heads, -1, dim) for i in (0, 1))
    queries = q.to(torch.float32).view(n, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
    scores = queries @ k[:, None].transpose(-1, -2) * scale
    place = torch.arange(k.shape[1], device=q.device)
    hidden = place > position[:, None]
    # Places that no row sees may hold anything, which a weight of 0 would not cancel.
    v = v.masked_fill(hidden.all(0)[:, None], 0.0)
    if window is not None:
        hidden |= place <= position[:, None] - window
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    result = weights.masked_fill(position[:, None] < 0, 0.0) @ v[:, None]
    return result.permute(2, 0, 1, 3).reshape(n, heads, dim)


@kernel
def find_last(starts: tl.tensor, count: tl.tensor, wanted: tl.tensor, BLOCK: tl.constexpr) -> Any:  # noqa: ANN401
    """Return the place of the last of `count` rising numbers that is at most `wanted`."""
    found = 0
    for begin in range(0, count, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        start = tl.load(starts + place, mask=place < count, other=2147483647)
        found += tl.sum((start <= wanted).to(tl.int32), 0)
    return found - 1


@kernel
def stretch(starts: tl.tensor, count: tl.tensor, KV_HEADS: tl.constexpr, LEAST: tl.constexpr) -> Any:  # noqa: ANN401
    """Return the tiles of all heads, and how many of them each program takes, at least LEAST."""
    tiles = tl.load(starts + count) * KV_HEADS
    return tiles, tl.maximum(tl.cdiv(tiles, tl.num_programs(0)), LEAST)


@kernel
def merge_parts(
    first: tl.tensor,
    last: tl.tensor,
    partial: tl.tensor,
    logs: tl.tensor,
    HELD: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> Any:  # noqa: ANN401
    """Return a unit's result and the logarithm of its norm from the parts of programs `first` to `last`.

    Each part has HELD rows. Program i left its part at row ``2 i``, the first one, in whose stretch the unit
    begins, at ``2 i + 1``.
    """
    row, dim = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    used = (row < HELD)[:, None] & (dim < DIM)[None, :]
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    norm = tl.zeros([ROWS], tl.float32)
    for i in range(first, last + 1):
        part = 2 * i + (i == first)
        log = tl.load(logs + part * HELD + row, mask=row < HELD, other=0.0)
        larger = tl.maximum(top, log)
        decay, weight = tl.exp2(top - larger), tl.exp2(log - larger)
        place = partial + part * HELD * DIM + row[:, None] * DIM + dim[None, :]
        total = total * decay[:, None] + tl.load(place, mask=used, other=0.0) * weight[:, None]
        norm = norm * decay + weight
        top = larger
    return total / norm[:, None], top + tl.log2(norm)


@kernel
def scan_tile(
    query: tl.tensor,
    total: tl.tensor,
    top: tl.tensor,
    norm: tl.tensor,
    cache: tl.tensor,
    pages: tl.tensor,
    head: tl.tensor,
    begin: tl.tensor,
    length: tl.tensor,
    position: tl.tensor,
    factor: tl.tensor,
    MASK: tl.constexpr,
    WINDOW: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
) -> Any:  # noqa: ANN401
    """Take the TILE keys from `begin` on into the rows' sums, maxima (times log2 e) and norms.

    Row i sees the places up to ``position[i]``, the last WINDOW of them if that is not 0; MASK says that
    some row may not see all of the tile. Nothing is read at or after `length`.
    """
    place = begin + tl.arange(0, TILE)
    dim = tl.arange(0, WIDTH)
    if MASK:
        page = tl.load(pages + place // PAGE, mask=place < length, other=0).to(tl.int64)
    else:
        page = tl.load(pages + place // PAGE).to(tl.int64)
    keys = cache + ((page * 2 * KV_HEADS + head) * PAGE + place % PAGE)[:, None] * DIM + dim[None, :]
    values = keys + KV_HEADS * PAGE * DIM
    if MASK:
        stored = (place < length)[:, None] & (dim < DIM)[None, :]
        k = tl.load(keys, mask=stored, other=0.0).to(query.dtype)
        v = tl.load(values, mask=stored, other=0.0).to(query.dtype)
    elif WIDTH != DIM:
        k = tl.load(keys, mask=(dim < DIM)[None, :], other=0.0).to(query.dtype)
        v = tl.load(values, mask=(dim < DIM)[None, :], other=0.0).to(query.dtype)
    else:
        k = tl.load(keys).to(query.dtype)
        v = tl.load(values).to(query.dtype)
    score = tl.dot(query, tl.trans(k), input_precision="ieee")
    if MASK:
        seen = place[None, :] <= position[:, None]
        if WINDOW:
            seen = seen & (place[None, :] > position[:, None] - WINDOW)
        score = tl.where(seen, score, float("-inf"))
    larger = tl.maximum(top, tl.max(score, 1) * factor)
    shift = larger
    if WINDOW:
        # A row may see nothing yet: its exponents must be -inf - 0, not -inf + inf.
        shift = tl.where(larger > float("-inf"), larger, 0.0)
    weight = tl.exp2(score * factor - shift[:, None])
    decay = tl.exp2(top - shift)
    norm = norm * decay + tl.sum(weight, 1)
    total = tl.dot(weight.to(query.dtype), v, total * decay[:, None], input_precision="ieee")
    return total, larger, norm
