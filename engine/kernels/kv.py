"""Writes into the paged KV cache: [page, K|V, kv head, offset, dim] for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def store_kv(cache: Tensor, k: Tensor, v: Tensor, pages: Tensor, offsets: Tensor) -> None:
    """Write the keys and values of each token to its place.

    Parameters
    ----------
    cache
        One layer's cache [pages, 2, kv heads, page size, head dim].
    k, v
        [tokens, kv heads, head dim].
    pages, offsets
        int64 [tokens]; no two tokens may share a place.
    """
    cache[pages, 0, :, offsets] = k
    cache[pages, 1, :, offsets] = v


def copy_kv_prefix(cache: Tensor, source: int, target: int, tokens: int) -> None:
    """Copy the first `tokens` entries of page `source` to page `target` in every layer.

    `cache` is [layers, pages, 2, kv heads, page size, head dim]. This is the copy on write of a prefix
    hit that ends inside a page.
    """
    cache[:, target, :, :, :tokens] = cache[:, source, :, :, :tokens]
