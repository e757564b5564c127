"""Samples with something of every workload."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plan.stratified import LEAST, MOST, sample_workloads
from engine.plan.tree import build_tree

SIZES = st.lists(st.integers(1, 4000), min_size=1, max_size=4)


def mix(sizes: list[int], seed: int):
    """Prompts of one token of the workload and two of their own, in any order."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int64)
    tokens = np.stack((group, rng.integers(10, 99, group.size), rng.integers(10, 99, group.size)), axis=1)
    start = 3 * np.arange(group.size + 1, dtype=np.int64)
    return build_tree(tokens.astype(np.int32).ravel(), start), group


@given(SIZES, st.floats(0.001, 0.2), st.integers(0, 99))
def test_every_workload_has_its_part(sizes: list[int], fraction: float, seed: int) -> None:
    tree, group = mix(sizes, seed)
    chosen = sample_workloads(tree, group, fraction, seed)
    assert len(set(chosen.tolist())) == len(chosen)
    for one, size in enumerate(sizes):
        count = int(np.count_nonzero(group[chosen] == one))
        assert count == max(1, min(max(LEAST, round(fraction * size)), int(MOST * size)))


def test_it_is_spread_over_the_subtrees_and_its_seed() -> None:
    tree, group = mix([3200], 1)
    chosen = sample_workloads(tree, group, 0.01, 5)
    place = np.empty(3200, np.int64)
    place[tree.sorted] = np.arange(3200)
    gaps = np.diff(np.sort(place[chosen]))
    assert gaps.min() >= 99
    assert gaps.max() <= 101
    assert np.array_equal(chosen, sample_workloads(tree, group, 0.01, 5))
    assert not np.array_equal(chosen, sample_workloads(tree, group, 0.01, 6))


@pytest.mark.parametrize("fraction", [0.0, 1.1])
def test_a_wrong_fraction_is_refused(fraction: float) -> None:
    tree, group = mix([4], 1)
    with pytest.raises(ValueError, match="fraction"):
        sample_workloads(tree, group, fraction)
