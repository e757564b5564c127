"""Turns the scheduler's work of a step into the tensors of the model runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from engine.jit import njit
from engine.kernels import AttentionGroup, causal_mask, gather_scratch, paged_attention
from engine.kernels.attention import MASK_ELEMENTS
from engine.runtime.state import W_SAMPLES, W_SEQUENCES, W_TOKENS, Int32, Int64, Slots, Work

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.config import ModelConfig

# Larger than any context.
_EVERYTHING = 1 << 30


@njit
def _group_sizes(length: Int32, context: Int32, order: Int64, limit: int) -> Int32:
    """Cut the sequences, sorted longest first, into groups that waste little on padding.

    A group ends where the next sequence is under half the longest in queries or under 3/4 in context, or
    where it would gather more than `limit` tokens of KV.
    """
    sizes = np.zeros(order.shape[0], np.int32)
    groups, members, queries, tokens = 0, 0, 0, 0
    for i in range(order.shape[0]):
        q, t = length[order[i]], context[order[i]]
        fits = 2 * q >= queries and 4 * t + 64 >= 3 * tokens and (members + 1) * tokens <= limit
        if members > 0 and not fits:
            groups += 1
            members = 0
        if members == 0:
            queries, tokens = q, 0
        tokens = max(tokens, t)
        members += 1
        sizes[groups] = members
    return sizes[: groups + 1]


def attention_groups(
    work: Work,
    slots: Slots,
    config: ModelConfig,
    page_size: int,
    gather_tokens: int,
    window: int | None = None,
) -> list[AttentionGroup]:
    """Group the step's sequences by length; see `AttentionGroup`.

    Parameters
    ----------
    gather_tokens
        Most tokens of KV that one group gathers (bounds the scratch memory and keeps it in cache).
    window
        Of the layers the groups are for; pages that no query of the step sees are left out.
    """
    n = int(work.size[W_SEQUENCES])
    length, context = work.length[:n], work.context[:n]
    first_seen = np.maximum(context - length - (window or _EVERYTHING) + 1, 0)
    first_page = (first_seen // page_size).astype(np.int32)
    seen = context - first_page * page_size
    order = np.lexsort((-seen, -length)).astype(np.int64)
    groups, begin, elements = [], 0, 0
    share = config.heads // config.kv_heads
    for size in _group_sizes(length, seen, order, gather_tokens):
        members = order[begin : begin + size]
        begin += size
        rows, position, keys = _group(work, slots, members, first_page[members], config.kv_heads, page_size)
        places = keys.shape[2] * page_size
        elements += rows.size * share * places
        queries, flat = torch.from_numpy(position), keys.reshape(-1)
        groups.append(
            AttentionGroup(
                rows=torch.from_numpy(rows),
                position=queries,
                keys=torch.from_numpy(flat),
                values=torch.from_numpy(flat + config.kv_heads),
                window=window,
                mask=causal_mask(queries, places, window, share) if elements <= MASK_ELEMENTS else None,
            )
        )
    return groups


def _group(
    work: Work,
    slots: Slots,
    members: npt.NDArray[np.int64],
    first_page: Int32,
    kv_heads: int,
    page_size: int,
) -> tuple[Int64, Int64, Int64]:
    """Return rows and positions [B, Q], and the places of the keys in the cache [B, kv heads, P]."""
    length, context = work.length[members], work.context[members]
    queries, pages = int(length.max()), int((-(-context // page_size) - first_page).max())
    step = np.minimum(np.arange(queries)[None, :], length[:, None] - 1)
    rows = work.first[members][:, None] + step
    position = (context - length - first_page * page_size)[:, None] + step
    place = np.arange(pages)[None, :]
    rows_of = work.slot[members]
    if first_page.any():
        place = place + first_page[:, None]
        table = slots.pages[rows_of[:, None], np.minimum(place, slots.pages.shape[1] - 1)].astype(np.int64)
    else:
        table = slots.pages[rows_of, :pages].astype(np.int64)
    # Entries past the end of a sequence are masked, but must be pages that exist.
    table[place * page_size >= context[:, None]] = 0
    keys = (table[:, None, :] * 2) * kv_heads + np.arange(kv_heads)[None, :, None]
    return rows.astype(np.int64), position.astype(np.int64), keys


@dataclass
class CpuInputs:
    """The tokens of one step for the CPU's operations; see `engine.models.decoder.StepInputs`.

    `groups` says how attention is batched, for each window the layers have.
    """

    tokens: Tensor
    positions: Tensor
    pages: Tensor
    slots: Tensor
    sample_rows: Tensor
    groups: dict[int | None, list[AttentionGroup]]
    _scratch: Tensor | None = None

    def attend(self, q: Tensor, cache: Tensor, window: int | None) -> Tensor:
        """Return attention of q [T, heads, head dim] over one layer's cache."""
        if self._scratch is None:
            self._scratch = gather_scratch(cache, [g for groups in self.groups.values() for g in groups])
        return paged_attention(q, cache, self.groups[window], self._scratch)


def step_inputs(
    work: Work, slots: Slots, config: ModelConfig, page_size: int, gather_tokens: int
) -> CpuInputs:
    """Return the model's view of one step. The tensors share memory with `work`, valid until the next."""
    tokens, samples = int(work.size[W_TOKENS]), int(work.size[W_SAMPLES])
    return CpuInputs(
        tokens=torch.from_numpy(work.tokens[:tokens]),
        positions=torch.from_numpy(work.positions[:tokens]),
        pages=torch.from_numpy(work.pages[:tokens]),
        slots=torch.from_numpy(work.slots[:tokens]),
        groups={
            window: attention_groups(work, slots, config, page_size, gather_tokens, window)
            for window in dict.fromkeys(config.windows)
        },
        sample_rows=torch.from_numpy(work.sample_rows[:samples]),
    )
