"""Causal attention of new tokens over the paged KV cache, for prefill and decode alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


MASK_ELEMENTS = 1 << 22
"""Most elements of a mask that exists at a time: a chunk over a long prefix goes in blocks of rows."""


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of similar lengths, padded to one rectangle: B sequences, Q queries, P pages.

    Attributes
    ----------
    rows
        int64 [B, Q]: the token rows of the queries; padding repeats the last one of its sequence.
    position
        int64 [B, Q]: the place of each query among the keys gathered for its sequence.
    keys, values
        int64 [B * kv heads * P]: rows of the cache seen as [pages * 2 * kv heads, page size * head dim].
    window
        A query looks at its own place and the ``window - 1`` before it; None: at all before it.
    mask
        What `causal_mask` gives for all queries, made once for all layers; None where that would be large.
    """

    rows: Tensor
    position: Tensor
    keys: Tensor
    values: Tensor
    window: int | None = None
    mask: Tensor | None = None


def causal_mask(position: Tensor, keys: int, window: int | None, gqa_group: int) -> Tensor:
    """Return float32 [B, 1, gqa_group * Q, keys], 0 where a query may look and -inf elsewhere.

    `position` is int64 [B, Q]. A query head shares its KV head with ``gqa_group - 1`` others, which are
    packed beside it as further queries; of a single query per sequence one row stands for all of them.
    """
    place = torch.arange(keys, device=position.device)
    hidden = place > position[:, :, None]
    if window is not None:
        hidden |= place <= position[:, :, None] - window
    mask = torch.where(hidden, -torch.inf, 0.0)
    b, n, _ = hidden.shape
    if n == 1:
        return mask[:, None]
    return mask[:, None].expand(-1, gqa_group, -1, -1).reshape(b, 1, gqa_group * n, keys)


def gather_scratch(cache: Tensor, groups: list[AttentionGroup]) -> Tensor:
    """Return scratch memory for `paged_attention` over `groups`, to be used for every layer of a step.

    New memory for each gather would cost more than the copy itself: the system hands out such blocks page
    by page, on first touch, and takes them back at once.
    """
    rows = max((group.keys.shape[0] for group in groups), default=0)
    return cache.new_empty((2, rows, cache.shape[-2] * cache.shape[-1]))


def paged_attention(
    q: Tensor, cache: Tensor, groups: list[AttentionGroup], scratch: Tensor | None = None
) -> Tensor:
    """Return ``softmax(q k^T / sqrt(d) + mask) v`` for every query.

    Parameters
    ----------
    q
        [tokens, heads, head dim].
    cache
        One layer's cache [pages, 2, kv heads, page size, head dim]; it must already hold the keys and
        values of this step's tokens, and only finite numbers.
    groups
        Every token row appears in exactly one group.
    scratch
        From `gather_scratch`; made here if None.

    Returns
    -------
    Tensor
        [tokens, heads, head dim], dtype of `q`.
    """
    _, heads, dim = q.shape
    kv_heads = cache.shape[2]
    gqa_group = heads // kv_heads
    flat = cache.view(-1, cache.shape[3] * dim)
    out = torch.empty_like(q)
    if scratch is None:
        scratch = gather_scratch(cache, groups)
    for group in groups:
        k, v = scratch[:, : group.keys.shape[0]]
        torch.index_select(flat, 0, group.keys, out=k)
        torch.index_select(flat, 0, group.values, out=v)
        b, n = group.rows.shape
        k, v = k.view(b, kv_heads, -1, dim), v.view(b, kv_heads, -1, dim)
        if group.mask is not None:
            out[group.rows] = _attend(q, group.rows, k, v, group.mask)
            continue
        step = max(1, MASK_ELEMENTS // (b * gqa_group * k.shape[2]))
        for first in range(0, n, step):
            rows, position = group.rows[:, first : first + step], group.position[:, first : first + step]
            mask = causal_mask(position, k.shape[2], group.window, gqa_group)
            out[rows] = _attend(q, rows, k, v, mask)
    return out


def _attend(q: Tensor, rows: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Return [B, n, heads, dim] of the queries in `rows` [B, n] over k, v [B, kv heads, keys, dim]."""
    b, kv_heads, _, dim = k.shape
    n, heads = rows.shape[1], q.shape[1]
    gqa_group = heads // kv_heads
    queries = q.index_select(0, rows.reshape(-1)).view(b, n, kv_heads, gqa_group, dim).permute(0, 2, 3, 1, 4)
    result = torch.nn.functional.scaled_dot_product_attention(
        queries.reshape(b, kv_heads, gqa_group * n, dim), k, v, attn_mask=mask
    )
    return result.view(b, kv_heads, gqa_group, n, dim).permute(0, 3, 1, 2, 4).reshape(b, n, heads, dim)
