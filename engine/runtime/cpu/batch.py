"""Turns the scheduler's work of a step into the tensors of the model runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.jit import entry
from engine.kernels import AttentionGroup, gather_scratch, host_ops, paged_attention
from engine.kernels.attention import MASK_ELEMENTS
from engine.kernels.host_ops import Sequences
from engine.runtime.state import W_SAMPLES, W_SEQUENCES, W_TOKENS, Slots, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from engine.arrays import Float32, Int32, Int64
    from engine.models.config import ModelConfig

# Larger than any context.
_EVERYTHING = 1 << 30


@entry()
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
    first_page = np.zeros(n, np.int32)
    if window is not None:
        first_page = np.maximum(context - length - window + 1, 0) // page_size
    seen = context - first_page * page_size
    order = np.lexsort((-seen, -length)).astype(np.int64)
    gqa_group, kv_heads = config.heads // config.kv_heads, config.kv_heads
    groups, begin, elements = [], 0, 0
    for size in _group_sizes(length, seen, order, gather_tokens):
        members = order[begin : begin + size]
        begin += size
        queries, pages = int(length[members].max()), -(-int(seen[members].max()) // page_size)
        # One row of the mask stands for all heads of a single query.
        copies = 1 if queries == 1 else gqa_group
        elements += size * copies * queries * pages * page_size
        masked = elements <= MASK_ELEMENTS
        rows = np.empty((size, queries), np.int64)
        position = np.empty((size, queries), np.int64)
        keys = np.empty((2, size, kv_heads, pages), np.int64)
        # Memory of torch is aligned as its operations like it.
        mask = torch.empty((int(size), 1, copies * queries if masked else 0, pages * page_size))
        limit = _EVERYTHING if window is None else window
        _fill_group(work, slots, members, first_page, page_size, limit, rows, position, keys, mask.numpy())
        flat = torch.from_numpy(keys.reshape(2, -1))
        groups.append(
            AttentionGroup(
                rows=torch.from_numpy(rows),
                position=torch.from_numpy(position),
                keys=flat[0],
                values=flat[1],
                window=window,
                mask=mask if masked else None,
            )
        )
    return groups


@entry(dims={"rows": 2, "position": 2, "keys": 4, "mask": 4})
def _fill_group(
    work: Work,
    slots: Slots,
    members: Int64,
    first_page: Int32,
    page_size: int,
    window: int,
    rows: Int64,
    position: Int64,
    keys: Int64,
    mask: Float32,
) -> None:
    """Fill the arrays of one `AttentionGroup`; a mask without rows is left to be made later."""
    queries, kv_heads, pages = rows.shape[1], keys.shape[2], keys.shape[3]
    for i in range(members.shape[0]):
        sequence = members[i]
        length, context = work.length[sequence], work.context[sequence]
        start = first_page[sequence]
        for j in range(queries):
            step = min(j, length - 1)
            rows[i, j] = work.first[sequence] + step
            position[i, j] = context - length - start * page_size + step
        for page in range(pages):
            # Entries past the end of a sequence are masked, but must be pages that exist.
            inside = (start + page) * page_size < context
            place = slots.pages[work.slot[sequence], start + page] if inside else 0
            for head in range(kv_heads):
                keys[0, i, head, page] = 2 * place * kv_heads + head
                keys[1, i, head, page] = (2 * place + 1) * kv_heads + head
        for row in range(mask.shape[2]):
            last = position[i, row % queries]
            first = max(0, last - window + 1)
            mask[i, 0, row, :first] = -np.inf
            mask[i, 0, row, first : last + 1] = 0.0
            mask[i, 0, row, last + 1 :] = -np.inf


@dataclass
class CpuInputs:
    """The tokens of one step for the CPU's operations; see `engine.models.decoder.StepInputs`.

    Attributes
    ----------
    sequences
        Whose tokens they are, for attention straight from the pages.
    group
        Batches attention for the torch reference, for a window that layers have.
    """

    tokens: Tensor
    positions: Tensor
    pages: Tensor
    offsets: Tensor
    sample_rows: Tensor
    sequences: Sequences
    group: Callable[[int | None], list[AttentionGroup]]
    _groups: dict[int | None, list[AttentionGroup]] = field(default_factory=dict)
    _scratch: Tensor | None = None

    def attend(self, q: Tensor, cache: Tensor, window: int | None, scales: Tensor | None) -> Tensor:
        """Return attention of q [T, heads, head dim] over one layer's cache, which is never in e4m3 here."""
        del scales
        if host_ops.fits(q) and host_ops.fits_heads(cache):
            return host_ops.attention(q, cache, self.sequences, _EVERYTHING if window is None else window)
        if window not in self._groups:
            self._groups[window], self._scratch = self.group(window), None
        if self._scratch is None:
            self._scratch = gather_scratch(cache, [g for groups in self._groups.values() for g in groups])
        return paged_attention(q, cache, self._groups[window], self._scratch)


def step_inputs(
    work: Work, slots: Slots, config: ModelConfig, page_size: int, gather_tokens: int
) -> CpuInputs:
    """Return the model's view of one step. It shares memory with `work` and `slots`, valid until the next."""
    tokens, samples = int(work.size[W_TOKENS]), int(work.size[W_SAMPLES])
    n = int(work.size[W_SEQUENCES])
    return CpuInputs(
        tokens=torch.from_numpy(work.tokens[:tokens]),
        positions=torch.from_numpy(work.positions[:tokens]),
        pages=torch.from_numpy(work.pages[:tokens]),
        offsets=torch.from_numpy(work.offsets[:tokens]),
        sample_rows=torch.from_numpy(work.sample_rows[:samples]),
        sequences=Sequences(work.first[:n], work.length[:n], work.context[:n], work.slot[:n], slots.pages),
        group=partial(attention_groups, work, slots, config, page_size, gather_tokens),
    )
