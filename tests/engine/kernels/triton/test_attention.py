"""The attention kernels against their references, in the interpreter, on odd shapes chosen pairwise."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from engine.kernels.decode_attention import decode_attention, decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention, prefill_attention_reference
from tests.engine.kernels.triton.launches import (
    HALF,
    POISON,
    normal,
    poisoned_allocations,
    relative_error,
)
from tests.engine.kernels.triton.paged import E4M3, F32, QUERY, TOLERANCE, name, paged
from tests.engine.kernels.triton.pairs import pairwise

SHAPES = {"dim": (64, 80, 96, 128, 256), "group": (1, 4, 7, 8), "length": (1, 15, 16, 17)}
KINDS = {"kind": (F32, HALF, E4M3)}
DECODE = pairwise(**SHAPES, **KINDS, page=(1, 16, 64), window=(None, 70), programs=(1, 3, 7))
PREFILL = pairwise(**SHAPES, **KINDS, page=(8, 16, 64), window=(None, 20), prefix=(0, 64, 129))


@pytest.fixture(autouse=True)
def _poison():
    with poisoned_allocations():
        yield


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
