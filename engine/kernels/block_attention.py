"""Paged attention by block tables on the device, in plain torch: the reference of the device kernels.

All lengths are read from device tensors, so a call needs no host knowledge and can be captured in a graph:
sequences without rows and rows without a sequence are allowed. It computes in float32 and gathers whole block
tables: right, not fast.
"""

from __future__ import annotations

import torch
from torch import Tensor


def decode_attention_reference(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context: Tensor,
    *,
    scale: float,
    window: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return ``softmax(scale q k^T) v`` for one query per sequence, the last of its context.

    Parameters
    ----------
    q
        [B, heads, head dim].
    cache
        One layer's cache [pages, 2, kv heads, page size, head dim].
    block_table
        int32 [B, P]: pages of each sequence; entries past its context may be any page that exists.
    context
        int32 [B], at least 1: tokens of the sequence, this step's included.
    scale, window
        Factor of the scores; how many of the last tokens are seen, None for all.
    out
        [B, heads, head dim], written and returned; made here if None.
    """
    out = torch.empty_like(q) if out is None else out
    for i in range(q.shape[0]):
        last = context[i : i + 1].to(torch.int64) - 1
        out[i : i + 1] = _attend(q[i : i + 1], cache, block_table[i], last, scale, window).to(q.dtype)
    return out


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
) -> Tensor:
    """Return causal attention for sequences of any number of rows; the last row sees the whole context.

    Parameters
    ----------
    q
        [tokens, heads, head dim].
    query_start
        int32 [S + 1]: sequence i has the rows from ``query_start[i]`` to before ``query_start[i + 1]``. Rows
        of no sequence are left as they are in `out`.
    block_table, context
        int32 [S, P], [S]; as for `decode_attention_reference`.
    """
    out = torch.empty_like(q) if out is None else out
    rows = torch.arange(q.shape[0], device=q.device)
    for i in range(context.shape[0]):
        first, end = query_start[i].to(torch.int64), query_start[i + 1].to(torch.int64)
        position = context[i].to(torch.int64) - (end - rows)
        result = _attend(q, cache, block_table[i], position, scale, window).to(q.dtype)
        inside = (rows >= first) & (rows < end)
        # Rows of others have meaningless positions; what came of them is not looked at.
        out.copy_(torch.where(inside[:, None, None], result, out))
    return out


def _attend(
    q: Tensor, cache: Tensor, pages: Tensor, position: Tensor, scale: float, window: int | None
) -> Tensor:
    """Return float32 [n, heads, dim]: q [n, heads, dim] at `position` int64 [n] over one sequence's pages."""
    n, heads, dim = q.shape
    kv_heads = cache.shape[2]
    k, v = (
        cache[pages.to(torch.int64), i].to(torch.float32).permute(1, 0, 2, 3).reshape(kv_heads, -1, dim)
        for i in (0, 1)
    )
    queries = q.to(torch.float32).view(n, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
    scores = queries @ k[:, None].transpose(-1, -2) * scale
    place = torch.arange(k.shape[1], device=q.device)
    hidden = place > position[:, None]
    if window is not None:
        hidden |= place <= position[:, None] - window
    result = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, None]
    return result.permute(2, 0, 1, 3).reshape(n, heads, dim)
