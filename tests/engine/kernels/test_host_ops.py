"""The CPU's operations in C give what the torch references give, on any shape."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import kernels
from engine.kernels import host_build, host_ops
from engine.kernels.host_ops import Sequences
from engine.kernels.qk_rope_store import qk_rope_store_reference
from engine.kernels.rms_norm import add_rms_norm_reference, rms_norm_reference
from engine.kernels.silu import silu_and_mul_reference
from tests.support.paged import MIXES, Paged, normal

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    host_ops.library() is None, reason="there is no C compiler, or none is wanted"
)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=2e-5, atol=2e-6)


@given(st.integers(0, 40), st.integers(1, 70), st.booleans(), st.integers(0, 9))
def test_norms(rows: int, n: int, residual: bool, seed: int) -> None:
    x, weight = normal(rows, n, seed=seed), normal(n, seed=seed + 1)
    assert close(kernels.rms_norm(x, weight, 1e-5), rms_norm_reference(x, weight, 1e-5))
    if residual:
        before = normal(rows, n, seed=seed + 2)
        found, kept = kernels.add_rms_norm(x, before.clone(), weight, 1e-6)
        expected, added = add_rms_norm_reference(x, before.clone(), weight, 1e-6)
        assert close(found, expected)
        assert torch.equal(kept, added)


@given(st.integers(0, 40), st.integers(1, 70), st.sampled_from([0.01, 1.0, 30.0, 1e4]), st.integers(0, 9))
def test_silu_and_mul(rows: int, n: int, scale: float, seed: int) -> None:
    gate_up = normal(rows, 2 * n, seed=seed) * scale
    assert close(kernels.silu_and_mul(gate_up), silu_and_mul_reference(gate_up))


@given(
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([8, 16, 24, 64, 128, 256]),
    st.sampled_from([1, 4, 16]),
    st.booleans(),
)
@settings(max_examples=60)
def test_qk_rope_store(
    tokens: int, kv_heads: int, group: int, dim: int, page_size: int, normed: bool
) -> None:
    heads = kv_heads * group
    qkv = normal(tokens, (heads + 2 * kv_heads) * dim)
    rope = kernels.rope_table(torch.arange(tokens) * 7, normal(dim // 2).abs(), torch.float32)
    places = torch.from_numpy(np.random.default_rng(1).permutation(tokens + 3)[:tokens])
    cache = torch.full((tokens // page_size + 4, 2, kv_heads, page_size, dim), 9.0)
    other = cache.clone()
    where = (places // page_size, places % page_size)
    norms = (normal(dim, seed=3), normal(dim, seed=4)) if normed else None
    assert host_ops.fits(qkv)
    assert host_ops.fits_heads(cache)
    q = kernels.qk_rope_store(qkv, rope, cache, *where, norms=norms, eps=1e-6)
    expected = qk_rope_store_reference(qkv, rope, other, *where, norms=norms, eps=1e-6)
    assert close(q, expected)
    assert close(cache, other)


def attended(paged: Paged, window: int | None) -> torch.Tensor:
    work = paged.work
    sequences = Sequences(work.first, work.length, work.context, work.slot, paged.slots.pages)
    return host_ops.attention(paged.q, paged.cache, sequences, 1 << 30 if window is None else window)


@pytest.mark.parametrize("mix", sorted(MIXES))
@pytest.mark.parametrize("gqa_group", [1, 4, 7])
@pytest.mark.parametrize("window", [None, 1, 16, 37])
def test_attention_from_the_pages(mix: str, gqa_group: int, window: int | None) -> None:
    paged = Paged(MIXES[mix], gqa_group)
    assert torch.allclose(attended(paged, window), paged.expected(window), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 90)), min_size=1, max_size=6),
    st.sampled_from([1, 2, 3, 5, 8]),
    st.integers(1, 3),
    st.sampled_from([1, 3, 16, 64]),
    st.sampled_from([8, 24, 64, 128, 256]),
    st.sampled_from([None, 1, 2, 31, 32, 33, 1000]),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_attention_of_any_shape(
    given_sizes: list[tuple[int, int]],
    group: int,
    kv_heads: int,
    page_size: int,
    dim: int,
    window: int | None,
    scale: float,
) -> None:
    """Large scores, too: where one key has all the weight, or all those before are far below the next."""
    sizes = [(length, length + more) for length, more in given_sizes]
    paged = Paged(sizes, group, kv_heads, size=page_size, dim=dim)
    paged.q *= scale
    # A score of some hundreds is rounded by some 1e-4, and so is the logarithm of its weight.
    assert torch.allclose(attended(paged, window), paged.expected(window), atol=1e-5 if scale <= 1 else 2e-3)


def test_heads_that_it_does_not_know_are_for_the_reference() -> None:
    for dim in (4, 12, 264):
        assert not host_ops.fits_heads(torch.zeros(2, 2, 1, 4, dim))
    assert not host_ops.fits(torch.zeros(2, 8, dtype=torch.bfloat16))
    assert not host_ops.fits(torch.zeros(8, 2).t())


def test_without_a_compiler_the_references_do_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_build, "cache_places", lambda: (tmp_path,))
    monkeypatch.setattr(host_build.shutil, "which", lambda _: None)
    host_ops.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            x, weight = normal(3, 16), normal(16)
            for _ in range(3):
                assert torch.equal(kernels.rms_norm(x, weight, 1e-5), rms_norm_reference(x, weight, 1e-5))
        [said] = [record.message for record in caplog.records if "in C" in record.message]
        assert "(there is no C compiler)" in said
        with pytest.raises(host_build.NoCompilerError):
            host_build.build()
    finally:
        host_ops.library.cache_clear()


def test_a_compiler_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_build, "cache_places", lambda: (tmp_path,))
    monkeypatch.setenv("CC", "false")
    with pytest.raises(host_build.NoCompilerError, match="cannot build it"):
        host_build.build()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("CC")
    assert host_build.level() in host_build.levels()
    for one in host_build.levels():
        assert host_build.build(one) == tmp_path / host_build.file_name(one)
    assert len(list(tmp_path.iterdir())) == len(host_build.levels())
