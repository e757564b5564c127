"""The attention kernels against their references, in the interpreter, on odd shapes chosen pairwise."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from engine.kernels.decode_attention import decode_attention, decode_attention_reference
from engine.kernels.fp8 import dequantise_kv, quantise_kv
from engine.kernels.prefill_attention import prefill_attention, prefill_attention_reference
from tests.engine.kernels.triton.launches import (
    HALF,
    ON_GPU,
    POISON,
    kv_scales,
    normal,
    permutation,
    poisoned_allocations,
    relative_error,
)
from tests.engine.kernels.triton.pairs import pairwise

F32, E4M3 = torch.float32, torch.float8_e4m3fn
QUERY = {F32: F32, HALF: HALF, E4M3: HALF if ON_GPU else F32}
"""Type of the queries by that of the cache."""
TOLERANCE = {F32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
SHAPES = {"dim": (64, 80, 96, 128, 256), "group": (1, 4, 7, 8), "length": (1, 15, 16, 17)}
KINDS = {"kind": (F32, HALF, E4M3)}
DECODE = pairwise(**SHAPES, **KINDS, page=(1, 16, 64), window=(None, 70), programs=(1, 3, 7))
PREFILL = pairwise(**SHAPES, **KINDS, page=(8, 16, 64), window=(None, 20), prefix=(0, 64, 129))


@pytest.fixture(autouse=True)
def _poison():
    with poisoned_allocations():
        yield


def paged(contexts: list[int], kv_heads: int, dim: int, page: int, kind: torch.dtype):
    """A cache with NaN wherever no token is, its block tables, and its scales if there are any."""
    used = [-(-n // page) for n in contexts]
    total = sum(used) + 1
    order = permutation(total, seed=5).to(torch.int32)
    # Entries past the context lead to a page of NaN.
    table = torch.full((len(contexts), max(used) + 1), int(order[-1]), dtype=torch.int32)
    cache = torch.full((total, 2, kv_heads, page, dim), torch.nan)
    begin = 0
    for i, n in enumerate(contexts):
        table[i, : used[i]] = order[begin : begin + used[i]]
        begin += used[i]
        place = torch.arange(n)
        where = table[i].long()[place // page], place % page
        cache[where[0], :, :, where[1]] = normal(n, 2, kv_heads, dim, seed=i)
    scales = None
    if kind == E4M3:
        flat = cache.permute(0, 3, 1, 2, 4).reshape(-1, 2, kv_heads, dim)
        scales = kv_scales(*flat.nan_to_num().unbind(1)) * torch.tensor([[0.9], [0.8]])
        flat = torch.stack([quantise_kv(flat[:, j], scales[j]) for j in (0, 1)], 1)
        cache = flat.view(total, page, 2, kv_heads, dim).permute(0, 2, 3, 1, 4).contiguous()
        assert dequantise_kv(cache, scales).isnan().any()
    return cache.to(kind), table, scales


def name(case: dict) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values())


@pytest.mark.parametrize("case", DECODE, ids=name)
def test_decode(case: dict) -> None:
    check_decode([case["length"], 0, 2 * 64, 400, 0, 31], **case)


def check_decode(contexts, *, dim, group, kind, page, window, programs, length=0) -> None:
    del length
    heads = 2 * group
    cache, table, scales = paged(contexts, 2, dim, page, kind)
    # Rows of queries that lie further apart than they are long, as in a slice of something wider.
    q = normal(len(contexts), heads + 2, dim, dtype=QUERY[kind])[:, :heads]
    context = torch.tensor(contexts, dtype=torch.int32)
    given = (q, cache, table, context)
    options = {"scale": 1.3 * dim**-0.5, "window": window, "scales": scales}
    wide = (q.float(), cache if scales is not None else cache.float(), table, context)
    expected = decode_attention_reference(*wide, **options)
    out = decode_attention(*given, **options, programs=programs)
    assert out.dtype == q.dtype
    assert (out[context == 0] == 0).all()
    assert relative_error(out, expected) < TOLERANCE[out.dtype]


@pytest.mark.parametrize("programs", [2, 5])
def test_decode_splits_a_long_context(programs: int) -> None:
    check_decode([1023], dim=64, group=4, kind=F32, page=16, window=None, programs=programs)


def test_more_sequences_than_one_operation_covers(monkeypatch) -> None:
    for module in ("decode_attention", "prefill_attention"):
        monkeypatch.setattr(f"engine.kernels.{module}.SEARCH", 4)
    check_decode([3, 0, 70, 0, 1, 0, 9, 0, 0], dim=64, group=1, kind=F32, page=8, window=None, programs=2)
    check_prefill([0, 2, 0, 0, 0, 1, 0, 3, 1], [0] * 9, dim=64, group=1, kind=F32, page=8, window=None)


@pytest.mark.parametrize("case", PREFILL, ids=name)
def test_prefill(case: dict) -> None:
    prefix = case["prefix"]
    check_prefill([case["length"], 0, 40, 3], [prefix, 9, prefix // 2, 200], **case)


def check_prefill(rows, prefixes, *, dim, group, kind, page, window, length=0, prefix=0) -> None:
    del length, prefix
    kv_heads = 2 if group < 7 else 1
    heads, before, after = kv_heads * group, 2, 3
    contexts = [n + p for n, p in zip(rows, prefixes, strict=True)]
    cache, table, scales = paged(contexts, kv_heads, dim, page, kind)
    total = before + sum(rows) + after
    q = normal(total, heads + 2, dim, dtype=QUERY[kind])[:, :heads]
    start = torch.tensor([before, *rows]).cumsum(0).to(torch.int32)
    context = torch.tensor(contexts, dtype=torch.int32)
    options = {"scale": 1.3 * dim**-0.5, "window": window, "scales": scales}
    wide = (q.float(), cache if scales is not None else cache.float(), table, start, context)
    expected = prefill_attention_reference(*wide, **options)
    out = prefill_attention(q, cache, table, start, context, **options)
    inside = slice(before, total - after)
    assert relative_error(out[inside], expected[inside]) < TOLERANCE[out.dtype]
    # Rows of no sequence are not touched.
    assert (out[:before] == POISON).all()
    assert (out[total - after :] == POISON).all()


def test_prefill_of_a_long_prompt() -> None:
    check_prefill([1023], [0], dim=64, group=1, kind=F32, page=16, window=None)


def test_the_cases_are_few_and_contain_every_pair() -> None:
    assert len(DECODE) + len(PREFILL) <= 55
    for cases in (DECODE, PREFILL):
        for a, b in combinations(cases[0], 2):
            values = [{c[n] for c in cases} for n in (a, b)]
            assert len({(c[a], c[b]) for c in cases}) == len(values[0]) * len(values[1])


def test_what_does_not_fit_together_is_refused() -> None:
    cache, table, _ = paged([5], 2, 64, 8, F32)
    context, good = torch.tensor([5], dtype=torch.int32), normal(1, 4, 64)
    for q, held, scales, words in (
        (normal(1, 3, 64), cache, None, "do not fit"),
        (normal(1, 4, 80), cache, None, "do not fit"),
        (good, cache.transpose(2, 3).contiguous().transpose(2, 3), None, "contiguous"),
        (good, cache, torch.ones(2, 2), "e4m3"),
        (good, cache.to(E4M3), None, "e4m3"),
    ):
        with pytest.raises(ValueError, match=words):
            decode_attention(q, held, table, context, scale=1.0, scales=scales)
