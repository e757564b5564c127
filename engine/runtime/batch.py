"""Turns the scheduler's work of a step into the tensors of the model runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from engine.jit import njit
from engine.kernels import AttentionGroup
from engine.models.decoder import StepInputs
from engine.runtime.state import W_SAMPLES, W_SEQUENCES, W_TOKENS, Int32, Int64, Slots, Work

if TYPE_CHECKING:
    from engine.models.config import ModelConfig


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
    work: Work, slots: Slots, config: ModelConfig, page_size: int, gather_tokens: int
) -> list[AttentionGroup]:
    """Group the step's sequences by length; see `AttentionGroup`.

    Parameters
    ----------
    gather_tokens
        Most tokens of KV that one group gathers (bounds the scratch memory and keeps it in cache).
    """
    n = int(work.size[W_SEQUENCES])
    length, context = work.length[:n], work.context[:n]
    order = np.lexsort((-context, -length)).astype(np.int64)
    groups, begin = [], 0
    for size in _group_sizes(length, context, order, gather_tokens):
        members = order[begin : begin + size]
        begin += size
        groups.append(_group(work, slots, members, config, page_size))
    return groups


def _group(
    work: Work, slots: Slots, members: npt.NDArray[np.int64], config: ModelConfig, page_size: int
) -> AttentionGroup:
    length, context = work.length[members], work.context[members]
    queries, pages = int(length.max()), -(-int(context.max()) // page_size)
    step = np.minimum(np.arange(queries)[None, :], length[:, None] - 1)
    rows = work.first[members][:, None] + step
    position = (context - length)[:, None] + step
    table = slots.pages[work.slot[members], :pages].astype(np.int64)
    # Entries past the end of a sequence are masked, but must be pages that exist.
    table[np.arange(pages)[None, :] * page_size >= context[:, None]] = 0
    kv_heads = config.kv_heads
    keys = (table[:, None, :] * 2) * kv_heads + np.arange(kv_heads)[None, :, None]
    hidden = torch.from_numpy(np.arange(pages * page_size)[None, None, :] > position[:, :, None])
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    share = config.heads // kv_heads
    packed = mask[:, None].expand(-1, share, -1, -1).reshape(len(members), 1, share * queries, -1)
    return AttentionGroup(
        rows=torch.from_numpy(rows.astype(np.int64)),
        keys=torch.from_numpy(keys.reshape(-1)),
        values=torch.from_numpy((keys + kv_heads).reshape(-1)),
        mask=packed,
    )


def step_inputs(
    work: Work, slots: Slots, config: ModelConfig, page_size: int, gather_tokens: int
) -> StepInputs:
    """Return the model's view of one step. The tensors share memory with `work`, valid until the next."""
    tokens, samples = int(work.size[W_TOKENS]), int(work.size[W_SAMPLES])
    return StepInputs(
        tokens=torch.from_numpy(work.tokens[:tokens]),
        positions=torch.from_numpy(work.positions[:tokens]),
        pages=torch.from_numpy(work.pages[:tokens]),
        slots=torch.from_numpy(work.slots[:tokens]),
        groups=attention_groups(work, slots, config, page_size, gather_tokens),
        sample_rows=torch.from_numpy(work.sample_rows[:samples]),
    )
