"""The estimator `sampled`: a part of every subtree, and the mean of the nearest one that has some."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.sampled import choose_sample, subtree_means
from engine.plan.tree import PrefixTree, build_tree


def tree_of(prompts: list[list[int]]) -> PrefixTree:
    start = np.cumsum([0, *map(len, prompts)]).astype(np.int64)
    return build_tree(np.array([t for p in prompts for t in p], np.int32), start)


def expected(tree: PrefixTree, length: list[float], known: list[bool], limit: float) -> list[float]:
    """The rule, read off the tree with lists."""
    n, nodes = len(length), len(tree.parent)
    children = [[c for c in range(nodes) if tree.parent[c] == k] for k in range(nodes)]

    def below(node: int) -> list[int]:
        return [int(tree.sorted[node])] if node < n else [r for c in children[node] for r in below(c)]

    def sample(node: int) -> list[float]:
        return [length[r] for r in below(node) if known[r]]

    def mean(node: int) -> float | None:
        if sample(node):
            return float(np.mean(sample(node)))
        above = int(tree.parent[node])
        if above < 0:
            return None
        inner = [c for c in children[above] if c >= n]
        place = inner.index(node)
        some = [(abs(i - place), i) for i, c in enumerate(inner) if sample(c)]
        return float(np.mean(sample(inner[min(some)[1]]))) if some else mean(above)

    out = [0.0] * n
    for leaf in range(n):
        r = int(tree.sorted[leaf])
        found = length[r] if known[r] else mean(int(tree.parent[leaf]))
        out[r] = min(max(0.5 * limit if found is None else found, 1.0), limit)
    return out


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), max_size=4), st.integers(1, 99), st.booleans()),
        min_size=1,
        max_size=24,
    )
)
def test_the_nearest_subtree_with_a_sample(rows: list[tuple[list[int], int, bool]]) -> None:
    tree = tree_of([r[0] for r in rows])
    length, known = [float(r[1]) for r in rows], [r[2] for r in rows]
    found = subtree_means(
        tree.sorted, tree.parent, np.array(length), np.array(known), np.full(len(rows), 80.0), 0.5
    )
    np.testing.assert_allclose(found, expected(tree, length, known, 80.0))


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 40))
def test_every_subtree_gives_its_part(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    prefix = np.repeat(np.arange(20), size)
    tree = tree_of(
        [[int(p), int(x)] for p, x in zip(prefix, rng.integers(0, 10**6, prefix.size), strict=True)]
    )
    chosen = choose_sample(tree, 0.1, seed)
    assert len(set(chosen.tolist())) == len(chosen) == max(1, round(0.1 * prefix.size))
    assert (np.abs(np.bincount(prefix[chosen], minlength=20) - 0.1 * size) < 1).all()


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        choose_sample(tree_of([[1]]), fraction)
