"""Cascade attention against plain decode attention in float32, in the interpreter, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.kernels.cascade_attention import (
    SharedPages,
    cascade_attention,
    cascade_attention_reference,
    shared_table,
)
from engine.kernels.decode_attention import decode_attention_reference
from tests.engine.kernels.triton.launches import DEVICE, HALF, normal, poisoned_allocations, relative_error
from tests.engine.kernels.triton.paged import E4M3, F32, QUERY, TOLERANCE, name, paged
from tests.engine.kernels.triton.pairs import pairwise

CASES = pairwise(
    dim=(64, 80, 128, 256),
    group=(1, 4, 7, 8),
    kind=(F32, HALF, E4M3),
    page=(1, 16, 64),
    programs=(1, 3, 7),
    prefix=(1, 70, 200),
    suffix=(0, 1, 90),
)


@pytest.fixture(autouse=True)
def _poison():
    with poisoned_allocations():
        yield


def pages_of(shared: list[int], groups: list[list[int]], room: int = 0) -> SharedPages:
    """The groups as tensors, with `room` unused ones and members that nobody may look at."""
    members = [row for group in groups for row in group]
    start = torch.tensor([0, *map(len, groups), *([0] * room)]).cumsum(0)
    filler = [10**6] * (len(shared) - len(members))
    return SharedPages(
        *(torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in (shared, members + filler)),
        start.to(DEVICE, torch.int32),
    )


def check_cascade(groups, contexts, depths, *, dim, group, kind, page, programs, room=2) -> None:
    """Groups of rows whose first `depths` pages are shared; the other rows are in no group."""
    heads, shared = 2 * group, [0] * len(contexts)
    cache, table, scales = paged(contexts, 2, dim, page, kind)
    for rows, depth in zip(groups, depths, strict=True):
        for row in rows:
            shared[row] = depth
            table[row, :depth] = table[rows[0], :depth]
    q = normal(len(contexts), heads + 2, dim, dtype=QUERY[kind])[:, :heads]
    context = torch.tensor(contexts, dtype=torch.int32)
    pages = pages_of(shared, groups, room)
    options = {"scale": 1.3 * dim**-0.5, "scales": scales}
    wide = (q.float(), cache if scales is not None else cache.float(), table, context)
    expected = decode_attention_reference(*wide, **options)
    assert torch.equal(cascade_attention_reference(*wide, pages, **options), expected)
    # What the members after the first say of the shared pages is not looked at.
    for rows, depth in zip(groups, depths, strict=True):
        for row in rows[1:]:
            table[row, :depth] = 10**8
    out = cascade_attention(q, cache, table, context, pages, **options, programs=programs)
    assert out.dtype == q.dtype
    assert (out[context == 0] == 0).all()
    assert relative_error(out, expected) < TOLERANCE[out.dtype]
    known = shared_table(table, pages)
    assert torch.equal(cascade_attention_reference(*wide[:2], known, context, pages, **options), expected)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_cascade(case: dict) -> None:
    """A group of one, one of three, one of two with little in common, a row of its own and an empty one."""
    page, prefix, suffix = case.pop("page"), case.pop("prefix"), case.pop("suffix")
    depth = max(1, prefix // page)
    whole = depth * page
    contexts = [whole + suffix, whole + 3, 45, page + 1, 0, whole + suffix, page + 20, whole + 33]
    check_cascade([[7], [5, 0, 1], [6, 3]], contexts, [depth, depth, 1], page=page, **case)


def test_a_group_of_several_tiles_split_among_programs() -> None:
    sizes = {"dim": 64, "group": 4, "kind": F32, "page": 16}
    contexts = [16 * 9 + 1 + i for i in range(21)]
    check_cascade([list(range(20, 1, -1))], contexts, [9], programs=5, room=0, **sizes)


def test_heads_that_share_a_kv_head_are_never_in_two_tiles() -> None:
    check_cascade([[0, 1, 2]], [70, 81, 92], [4], dim=64, group=40, kind=F32, page=16, programs=2)


def test_more_groups_than_one_operation_covers(monkeypatch) -> None:
    for module in ("decode_attention", "cascade_attention"):
        monkeypatch.setattr(f"engine.kernels.{module}.SEARCH", 2)
    groups = [[0, 9], [1], [2, 3], [4], [5, 6, 7]]
    sizes = {"dim": 64, "group": 1, "kind": F32, "page": 8}
    check_cascade(groups, list(range(25, 35)), [3, 1, 2, 3, 1], programs=3, **sizes)


@given(data=st.data(), page=st.sampled_from([1, 4, 16]), programs=st.integers(1, 9))
@hypothesis_settings(max_examples=12, deadline=None)
def test_any_groups(data, page: int, programs: int) -> None:
    contexts = data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=8))
    left = data.draw(st.permutations(range(len(contexts))))
    groups, depths = [], []
    while left and len(groups) < 3:
        rows, left = left[: (size := data.draw(st.integers(1, len(left))))], left[size:]
        most = min(contexts[row] for row in rows) // page
        if most:
            groups.append(rows)
            depths.append(data.draw(st.integers(1, most)))
    sizes = {"dim": 16, "group": 2, "kind": F32, "page": page}
    check_cascade(groups, contexts, depths, programs=programs, room=len(left), **sizes)


def test_no_sequences_and_no_groups() -> None:
    check_cascade([], [40, 3], [], dim=64, group=4, kind=F32, page=16, programs=2)
    nothing = torch.zeros(0, 4, 64)
    cache, table, _ = paged([5], 2, 64, 8, F32)
    pages = pages_of([], [], 1)
    context = torch.zeros(0, dtype=torch.int32)
    assert cascade_attention(nothing, cache, table[:0], context, pages, scale=1.0).shape == (0, 4, 64)


def test_what_does_not_fit_together_is_refused() -> None:
    cache, table, _ = paged([5], 2, 64, 8, F32)
    context, pages = torch.tensor([5], dtype=torch.int32), pages_of([0], [])
    with pytest.raises(ValueError, match="do not fit"):
        cascade_attention(normal(1, 4, 80), cache, table, context, pages, scale=1.0)
