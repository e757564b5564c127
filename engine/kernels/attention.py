"""Causal attention of new tokens over the paged KV cache, for prefill and decode alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of similar lengths, padded to one rectangle: B sequences, Q queries, P pages.

    Attributes
    ----------
    rows
        int64 [B, Q]: the token rows of the queries; padding repeats the last one of its sequence.
    keys, values
        int64 [B * kv heads * P]: rows of the cache seen as [pages * 2 * kv heads, page size * head dim].
    mask
        float [B, 1, group * Q, P * page size], 0 where a query may look and -inf elsewhere. A query head
        shares its KV head with ``group - 1`` others, which are packed beside it as further queries.
    """

    rows: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor


def gather_scratch(cache: Tensor, groups: list[AttentionGroup]) -> Tensor:
    """Return scratch memory for `paged_attention` over `groups`, to be used for every layer of a step.

    Fresh memory for each gather would cost more than the copy itself: the system hands out such blocks page
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
    share = heads // kv_heads
    flat = cache.view(-1, cache.shape[3] * dim)
    out = torch.empty_like(q)
    if scratch is None:
        scratch = gather_scratch(cache, groups)
    for group in groups:
        b, n = group.rows.shape
        queries = (
            q.index_select(0, group.rows.reshape(-1)).view(b, n, kv_heads, share, dim).permute(0, 2, 3, 1, 4)
        )
        k, v = scratch[:, : group.keys.shape[0]]
        torch.index_select(flat, 0, group.keys, out=k)
        torch.index_select(flat, 0, group.values, out=v)
        result = torch.nn.functional.scaled_dot_product_attention(
            queries.reshape(b, kv_heads, share * n, dim),
            k.view(b, kv_heads, -1, dim),
            v.view(b, kv_heads, -1, dim),
            attn_mask=group.mask,
        )
        result = result.view(b, kv_heads, share, n, dim).permute(0, 3, 1, 2, 4)
        out[group.rows] = result.reshape(b, n, heads, dim)
    return out
