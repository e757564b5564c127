"""The kernels at a context of 131,072 tokens, and in KV memory of more than 2^31 elements."""

from __future__ import annotations

import torch

from engine.kernels.decode_attention import decode_attention, decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention, prefill_attention_reference
from engine.kernels.qk_rope_store import qk_rope_store, qk_rope_store_reference
from engine.kernels.rope import rope_table
from engine.models.config import RopeConfig
from engine.models.rope import inverse_frequencies
from tests.engine.kernels.triton.launches import (
    HALF,
    normal,
    permutation,
    poisoned_allocations,
    relative_error,
)

LONGEST = 131072
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[HALF]
DIM, PAGE = 64, 16


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def long_sequence(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One KV head of a sequence of the greatest length, its pages in random order.

    To `query` [dim] the first, a middle and the last place weigh as much as all the others together.
    """
    pages = LONGEST // PAGE
    cache = normal(pages, 2, 1, PAGE, DIM)
    order = permutation(pages, seed=1).to(torch.int32)
    key = query * (12 * DIM**0.5 / query.square().sum())
    cache[order[[0, pages // 2, -1]].long(), 0, 0, torch.tensor([0, 7, 15])] = key
    return cache.to(HALF), order[None]


def test_decode_at_the_last_position() -> None:
    q, context, scale = normal(1, 2, DIM, seed=3, dtype=HALF), int32(LONGEST), DIM**-0.5
    cache, table = long_sequence(q[0, 0].float())
    expected = decode_attention_reference(q.float(), cache.float(), table, context, scale=scale)
    with poisoned_allocations():
        out = decode_attention(q, cache, table, context, scale=scale, programs=3)
    assert relative_error(out, expected) < TOLERANCE
    # The first place and the last one are seen.
    shorter = decode_attention_reference(q.float(), cache.float(), table, context - 1, scale=scale)
    assert relative_error(shorter, expected) > 1e-2
    later = decode_attention_reference(
        q.float(), cache.float(), table, context, scale=scale, window=LONGEST - 1
    )
    assert relative_error(later, expected) > 1e-2


def test_prefill_of_the_last_chunk() -> None:
    rows = 5
    q, scale = normal(rows, 2, DIM, seed=4, dtype=HALF), DIM**-0.5
    cache, table = long_sequence(q[-1, 0].float())
    given = (table, int32(0, rows), int32(LONGEST))
    expected = prefill_attention_reference(q.float(), cache.float(), *given, scale=scale)
    with poisoned_allocations():
        out = prefill_attention(q, cache, *given, scale=scale)
    assert relative_error(out, expected) < TOLERANCE
    for row in range(rows):
        # The same one by one: a row is the decode of a sequence that ends with it.
        context = int32(LONGEST - rows + 1 + row)
        alone = decode_attention_reference(
            q[row : row + 1].float(), cache.float(), table, context, scale=scale
        )
        assert relative_error(out[row], alone[0]) < TOLERANCE


def test_places_beyond_two_billion_elements() -> None:
    kv_heads, heads, tokens = 2, 4, 3 * PAGE
    pages = (1 << 31) // (2 * kv_heads * PAGE * DIM) + 8
    # Memory that is never written takes none.
    cache = torch.empty((pages, 2, kv_heads, PAGE, DIM), dtype=HALF)
    assert cache.numel() > 1 << 31
    table = int32(pages - 1, pages - 3, pages - 6)
    where = table.long().repeat_interleave(PAGE), torch.arange(tokens) % PAGE
    qkv = normal(tokens, (heads + 2 * kv_heads) * DIM, dtype=HALF)
    positions = torch.arange(LONGEST - tokens, LONGEST)
    rope = rope_table(positions, inverse_frequencies(RopeConfig(500000.0), DIM), HALF)
    # The same in a cache of three pages.
    small = torch.zeros((3, 2, kv_heads, PAGE, DIM), dtype=HALF)
    near = torch.arange(3).repeat_interleave(PAGE), where[1]
    expected = qk_rope_store_reference(qkv, rope, small, *near)
    with poisoned_allocations():
        q = qk_rope_store(qkv, rope, cache, *where)
    assert relative_error(q, expected) < TOLERANCE
    assert relative_error(cache[table.long()], small) < TOLERANCE
    scale, context = DIM**-0.5, int32(tokens)
    last, order = q[-1:], torch.arange(3, dtype=torch.int32)[None]
    wide = small.float()
    with poisoned_allocations():
        out = decode_attention(last, cache, table[None], context, scale=scale)
        rows = prefill_attention(q, cache, table[None], int32(0, tokens), context, scale=scale)
    assert (
        relative_error(out, decode_attention_reference(last.float(), wide, order, context, scale=scale))
        < TOLERANCE
    )
    expected = prefill_attention_reference(q.float(), wide, order, int32(0, tokens), context, scale=scale)
    assert relative_error(rows, expected) < TOLERANCE
