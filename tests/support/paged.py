"""Sequences in a page cache, beside their contiguous keys and values, and attention by its definition."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import LlamaConfig

from engine import kernels
from engine.models.config import parse_config
from engine.runtime.cpu.batch import attention_groups
from engine.runtime.state import W_SEQUENCES, W_TOKENS, make_slots, make_work


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Paged:
    """Sequences of (new tokens, context) in a shuffled page cache, beside their contiguous KV."""

    def __init__(
        self,
        sequences: list[tuple[int, int]],
        gqa_group: int,
        kv_heads: int = 2,
        size: int = 16,
        dim: int = 8,
    ) -> None:
        self.config = parse_config(
            LlamaConfig(
                hidden_size=56 * kv_heads * gqa_group,
                num_attention_heads=gqa_group * kv_heads,
                num_key_value_heads=kv_heads,
            ).to_dict()
            | {"architectures": ["LlamaForCausalLM"]}
        )
        self.dim, self.size = dim, size
        needed = [-(-context // size) for _, context in sequences]
        order = np.random.default_rng(0).permutation(sum(needed) + 3)
        self.cache = torch.zeros(len(order), 2, kv_heads, size, self.dim)
        total = sum(length for length, _ in sequences)
        self.q = normal(total, gqa_group * kv_heads, self.dim)
        self.slots = make_slots(len(sequences), max(needed), 1)
        self.work = make_work(total, len(sequences))
        self.work.size[W_TOKENS], self.work.size[W_SEQUENCES] = total, len(sequences)
        self.kv, row, page = [], 0, 0
        for i, (length, context) in enumerate(sequences):
            slot = len(sequences) - 1 - i
            table = order[page : page + needed[i]].astype(np.int32)
            page += needed[i]
            self.slots.pages[slot, : needed[i]] = table
            self.work.first[i], self.work.length[i] = row, length
            self.work.context[i], self.work.slot[i] = context, slot
            row += length
            k, v = (
                normal(context, kv_heads, self.dim, seed=10 + i),
                normal(context, kv_heads, self.dim, seed=90 + i),
            )
            places = torch.arange(context)
            pages = torch.from_numpy(table[places.numpy() // size].astype(np.int64))
            kernels.store_kv(self.cache, k, v, pages, places % size)
            self.kv.append((k, v))
        # What lies in unused places must not matter, as long as it is finite.
        self.cache[self.cache == 0] = 77.0

    def expected(self, window: int | None = None) -> torch.Tensor:
        out = torch.empty_like(self.q)
        heads = self.q.shape[1]
        for i, (k, v) in enumerate(self.kv):
            first, length, context = (
                int(a[i]) for a in (self.work.first, self.work.length, self.work.context)
            )
            for j in range(length):
                seen = context - length + j + 1
                first_seen = 0 if window is None else max(0, seen - window)
                for head in range(heads):
                    kv_head = head // (heads // k.shape[1])
                    score = k[first_seen:seen, kv_head] @ self.q[first + j, head] / math.sqrt(self.dim)
                    out[first + j, head] = score.softmax(0) @ v[first_seen:seen, kv_head]
        return out

    def groups(self, gather_tokens: int, window: int | None = None) -> list[kernels.AttentionGroup]:
        return attention_groups(self.work, self.slots, self.config, self.size, gather_tokens, window)


MIXES = {
    "decode": [(1, n) for n in (1, 15, 16, 17, 123, 16)],
    "prefill": [(n, n) for n in (1, 15, 16, 17, 5, 123)],
    "chunks": [(5, 123), (16, 17), (1, 40), (17, 48), (15, 15), (1, 1), (1, 200), (7, 200)],
}
