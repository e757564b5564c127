"""Where expected lengths come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plan.lengths import SOURCES, UNKNOWN_FRACTION, estimate_lengths

NAN = float("nan")


def estimate(observed: list[float], limit: list[int], group: list[int]):
    lengths, source = estimate_lengths(
        np.array(observed, np.float64), np.array(limit, np.int64), np.array(group, np.int64)
    )
    return lengths.tolist(), source.tolist()


def test_each_source_in_its_turn() -> None:
    lengths, source = estimate([10, NAN, 30, NAN, NAN], [100, 100, 100, 100, 15], [7, 7, 7, -2, -2])
    assert source == ["observed", "workload", "observed", "global", "global"]
    assert lengths == [10, 20, 30, 20, 15]


def test_nothing_known_is_a_fraction_of_the_limit() -> None:
    lengths, source = estimate([NAN, NAN], [100, 1], [0, 1])
    assert source == ["max_tokens", "max_tokens"]
    assert lengths == [100 * UNKNOWN_FRACTION, 1]


def test_observed_is_cut_to_the_limit_and_to_one() -> None:
    lengths, source = estimate([500, 0], [100, 100], [0, 0])
    assert (lengths, source) == ([100, 1], ["observed", "observed"])


def test_no_requests() -> None:
    assert estimate([], [], []) == ([], [])


@pytest.mark.parametrize(
    ("observed", "limit", "group"),
    [([-1.0], [5], [0]), ([float("inf")], [5], [0]), ([1.0], [0], [0]), ([1.0], [5, 5], [0])],
)
def test_bad_input_is_refused(observed: list[float], limit: list[int], group: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must be|lengths"):
        estimate(observed, limit, group)


ROW = st.tuples(st.one_of(st.just(NAN), st.integers(0, 5000)), st.integers(1, 3000), st.integers(-3, 3))


@given(st.lists(ROW, max_size=40))
def test_in_bounds_and_honest_about_the_source(rows: list[tuple[float, int, int]]) -> None:
    observed, limit, group = ([row[i] for row in rows] for i in range(3))
    lengths, source = estimate(observed, limit, group)
    known = {g for d, g in zip(observed, group, strict=True) if not np.isnan(d)}
    for i, (length, name) in enumerate(zip(lengths, source, strict=True)):
        assert 1 <= length <= limit[i]
        assert name in SOURCES
        assert (name == "observed") == (not np.isnan(observed[i]))
        if name == "workload":
            assert group[i] in known
        if name == "global":
            assert known
            assert group[i] not in known
        if name == "max_tokens":
            assert not known
