"""Sorting prompts against Python's own sort, with one thread and with several."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan import sort
from engine.plan.sort import agreeing, sort_pairs, sort_prompts

LARGEST = 2**31 - 1
SYMBOLS = st.sampled_from([0, 1, 2, LARGEST])
# Short prompts, prompts that share more than a block of tokens, and many equal ones.
PROMPT = st.tuples(st.integers(0, 40), st.lists(SYMBOLS, max_size=5)).map(lambda x: [1] * x[0] + x[1])
PROMPTS = st.lists(PROMPT, max_size=60)


def flat(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([token for prompt in prompts for token in prompt], np.int32)
    return tokens, np.cumsum([0, *map(len, prompts)]).astype(np.int64)


def expected(prompts: list[list[int]]) -> tuple[list[int], list[int]]:
    """Order and common prefixes by Python's stable sort of lists."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    common = []
    for place, i in enumerate(order):
        before = prompts[order[place - 1]] if place else []
        pairs = list(zip(before, prompts[i], strict=False))
        common.append(next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs)))
    return order, common


def assert_sorted(prompts: list[list[int]], threads: int) -> None:
    order, common = sort_prompts(*flat(prompts), threads)
    assert (order.tolist(), common.tolist()) == expected(prompts)


@settings(deadline=None)
@given(PROMPTS)
def test_order_and_common_prefixes(prompts) -> None:
    assert_sorted(prompts, 1)


@settings(deadline=None, max_examples=50)
@given(PROMPTS)
def test_threads_change_nothing(prompts) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sort, "ALONE_BELOW", 0)
        assert_sorted(prompts, 3)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "prompts",
    [
        [],
        [[]],
        [[], [5], [], [5, 0]],
        [[7] * 50] * 400,
        [[7] * i for i in range(300)],
        [[7] * (300 - i) + [i] for i in range(300)],
        [[7] * i + [i % 3] * (300 - i) for i in range(300)],
        [[LARGEST, 0], [0, LARGEST], [LARGEST], [LARGEST, LARGEST], [0]],
    ],
    ids=["none", "one empty", "some empty", "all equal", "nested", "falling", "branching", "large ids"],
)
def test_bad_cases(prompts, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sort, "ALONE_BELOW", 0)
    assert_sorted(prompts, threads)


def test_each_token_is_compared_once_below_a_long_shared_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python, where the compared tokens can be counted."""
    rng = np.random.default_rng(3)
    prompts = [[1] * 200 + rng.integers(0, 3, 12).tolist() for _ in range(60)]
    read = []

    def counted(tokens, a: int, b: int, limit: int) -> int:
        found = agreeing.py_func(tokens, a, b, limit)
        read.append(found + 1)
        return found

    tokens, start = flat(prompts)
    order, common = np.arange(60, dtype=np.int32), np.zeros(60, np.int32)
    for name in ("_sort_groups", "_compare", "_cut", "_pick"):
        monkeypatch.setattr(sort, name, getattr(sort, name).py_func)
    monkeypatch.setattr(sort, "agreeing", counted)
    with np.errstate(over="ignore"):
        sort._sort_groups(tokens, start, order, np.zeros(60, np.uint64), common, np.array([[0, 60, 0]]))
    assert (order.tolist(), common.tolist()) == expected(prompts)
    # The pivot itself is compared to its end, too.
    assert sum(read) < 1.2 * tokens.shape[0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=200), st.randoms())
def test_pairs_by_key_then_value(keys, rng) -> None:
    values = list(range(len(keys)))
    rng.shuffle(values)
    k, v = np.array(keys, np.uint64), np.array(values, np.int32)
    sort_pairs(k, v, 0, len(keys))
    assert list(zip(k.tolist(), v.tolist(), strict=True)) == sorted(zip(keys, values, strict=True))


def test_many_pairs() -> None:
    rng = np.random.default_rng(0)
    for keys in (
        rng.integers(0, 2**64, 5000, dtype=np.uint64),
        np.arange(5000, dtype=np.uint64)[::-1],
        np.concatenate((np.arange(2500), np.arange(2500)[::-1])).astype(np.uint64),
        np.zeros(5000, np.uint64),
    ):
        k, v = keys.copy(), rng.permutation(5000).astype(np.int32)
        reference = sorted(zip(k.tolist(), v.tolist(), strict=True))
        sort_pairs(k, v, 100, 5000)
        assert k[:100].tolist() == keys[:100].tolist()
        sort_pairs(k, v, 0, 5000)
        assert list(zip(k.tolist(), v.tolist(), strict=True)) == reference
