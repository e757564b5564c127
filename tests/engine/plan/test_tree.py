"""The prefix tree against a plain trie, and what its orders keep."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape
from engine.errors import EngineError
from engine.plan.policies import POLICIES, make_plan
from engine.plan.tree import (
    PrefixTree,
    build_tree,
    depth_first_leaves,
    distinct_tokens,
    falling,
    hit_rate_optimum,
    node_costs,
)
from tests.support.models import flatten

SHAPE = ModelShape(1000, 300, 2, 16, 64, 5200)
PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=14)
LONG = [
    [1, 2, 3, 4, 5],
    [1, 2, 3, 9],
    [7],
    [1, 2, 3, 4, 5],
    [1, 2],
    [7, 8, 8, 8],
    [1, 2, 3, 4, 6, 6],
]


def common_prefix(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def trie_of(prompts: list[list[int]]) -> set[tuple[int, ...]]:
    """Every distinct prefix: the nodes of an uncompressed trie."""
    return {tuple(p[: i + 1]) for p in prompts for i in range(len(p))}


def branching(prompts: list[list[int]]) -> set[tuple[int, ...]]:
    """Prefixes where a compressed trie has an inner node: two prompts part, or one ends inside."""
    ends = [(*p, -1 - i) for i, p in enumerate(prompts)]
    inner = {()}
    for a, b in itertools.combinations(ends, 2):
        inner.add(tuple(a[: common_prefix(a, b)]))
    return inner


def hits_of(prompts: list[list[int]], order) -> int:
    """Tokens found in an unlimited cache, the last token of each prompt always computed."""
    seen: set[tuple[int, ...]] = set()
    hits = 0
    for i in order:
        prompt = prompts[i]
        found = 0
        while found < len(prompt) and tuple(prompt[: found + 1]) in seen:
            found += 1
        hits += min(found, len(prompt) - 1)
        seen |= trie_of([prompt])
    return hits


def depth_first(tree: PrefixTree, key: np.ndarray) -> np.ndarray:
    """Requests in depth-first order, children by `key` (one number a node), highest first."""
    return tree.sorted[depth_first_leaves(tree.parent, falling(key), len(tree.sorted))]


def adjacent_sharing(prompts: list[list[int]], order) -> int:
    return sum(common_prefix(prompts[a], prompts[b]) for a, b in itertools.pairwise(order))


@settings(deadline=None)
@given(PROMPTS)
def test_tree_is_the_compressed_trie(prompts) -> None:
    tree = build_tree(*flatten(prompts))
    n = len(prompts)
    assert [prompts[i] for i in tree.sorted] == sorted(prompts)
    assert sorted(tree.sorted.tolist()) == list(range(n))
    assert tree.depth[:n].tolist() == [len(prompts[i]) for i in tree.sorted]
    assert tree.parent[-1] == -1
    assert tree.depth[-1] == 0
    assert (tree.parent[:-1] > np.arange(len(tree.parent) - 1)).all()
    in_order = [prompts[i] for i in tree.sorted]
    assert tree.common.tolist() == [0, *(common_prefix(a, b) for a, b in itertools.pairwise(in_order))]
    assert distinct_tokens(tree) == len(trie_of(prompts))
    # Each inner node's path, read off any leaf below it, is a branching prefix, and all of them are there.
    paths = [set() for _ in tree.parent]
    for leaf in range(n):
        prompt, node = prompts[tree.sorted[leaf]], int(tree.parent[leaf])
        while node != -1:
            paths[node].add(tuple(prompt[: tree.depth[node]]))
            node = int(tree.parent[node])
    assert all(len(p) == 1 for p in paths[n:])
    inner = [next(iter(p)) for p in paths[n:]]
    assert len(set(inner)) == len(inner)
    assert set(inner) == branching(prompts)


@settings(deadline=None)
@given(PROMPTS)
def test_hit_rate_optimum_is_that_of_an_unlimited_cache(prompts) -> None:
    tree = build_tree(*flatten(prompts))
    expected = hits_of(prompts, tree.sorted) / sum(map(len, prompts))
    assert hit_rate_optimum(tree) == pytest.approx(expected)


def radix_tree(prompts: list[list[int]]) -> dict:
    """A radix tree by insertion, nested: first token of an edge -> [edge, children, ending prompts]."""
    root: dict = {}
    for i, prompt in enumerate(prompts):
        level, rest = root, list(prompt)
        while True:
            edge = level.setdefault(rest[0], [rest, {}, []])
            same = common_prefix(edge[0], rest)
            if same < len(edge[0]):
                below = [edge[0][same:], edge[1], edge[2]]
                edge[:] = [edge[0][:same], {below[0][0]: below}, []]
            rest = rest[same:]
            if not rest:
                edge[2].append(i)
                break
            level = edge[1]
    return root


@settings(deadline=None)
@given(PROMPTS)
def test_nodes_are_those_of_a_radix_tree_built_by_insertion(prompts) -> None:
    def nodes(level: dict, depth: int) -> list[tuple[int, list[int]]]:
        """(depth, requests below) of every node that two requests or more are below."""
        found = []
        for edge, children, ends in level.values():
            below = nodes(children, depth + len(edge))
            inside = sorted({i for child in children.values() for i in requests(child)} | set(ends))
            found += below + ([(depth + len(edge), inside)] if len(inside) > 1 else [])
        return found

    def requests(node: list) -> set[int]:
        return set(node[2]).union(*(requests(child) for child in node[1].values()))

    tree = build_tree(*flatten(prompts))
    n = len(prompts)
    inside: list[list[int]] = [[] for _ in tree.parent]
    for leaf in range(n):
        node = int(tree.parent[leaf])
        while node != -1:
            inside[node].append(int(tree.sorted[leaf]))
            node = int(tree.parent[node])
    mine = [(int(tree.depth[node]), sorted(inside[node])) for node in range(n, len(tree.parent) - 1)]
    assert sorted(mine) == sorted(nodes(radix_tree(prompts), 0))


def test_figures_of_a_small_tree() -> None:
    tree = build_tree(*flatten(LONG))
    # Edges: 12 | 3 | 45 | 66 below 4 ... distinct prefixes counted by hand.
    assert distinct_tokens(tree) == 5 + 1 + 1 + 0 + 0 + 3 + 2
    # 27 tokens; [1, 2, 3, 4, 5] twice recomputes its last token once.
    assert hit_rate_optimum(tree) == pytest.approx((27 - 12 - 1) / 27)


@settings(deadline=None)
@given(PROMPTS, st.integers(0, 2**32 - 1))
def test_any_key_is_a_permutation_that_keeps_sharing(prompts, seed) -> None:
    tree = build_tree(*flatten(prompts))
    key = np.random.default_rng(seed).random(len(tree.parent))
    order = depth_first(tree, key)
    assert sorted(order.tolist()) == list(range(len(prompts)))
    # In a depth-first order the sharing of neighbours is all the sharing there is.
    assert adjacent_sharing(prompts, order) == adjacent_sharing(prompts, tree.sorted)
    assert adjacent_sharing(prompts, order) == sum(map(len, prompts)) - len(trie_of(prompts))


def test_an_order_that_cuts_a_subtree_loses_sharing() -> None:
    """The measure above tells a depth-first order from another one."""
    assert adjacent_sharing(LONG, range(len(LONG))) < adjacent_sharing(
        LONG, build_tree(*flatten(LONG)).sorted
    )


@settings(deadline=None)
@given(PROMPTS, st.integers(0, 2**32 - 1))
def test_children_are_visited_by_falling_key(prompts, seed) -> None:
    tree = build_tree(*flatten(prompts))
    key = np.random.default_rng(seed).integers(0, 5, len(tree.parent)).astype(float)
    leaf_of = {int(request): leaf for leaf, request in enumerate(tree.sorted)}
    first_visit: dict[int, int] = {}
    for time, request in enumerate(depth_first(tree, key)):
        node = leaf_of[int(request)]
        while node != -1:
            first_visit.setdefault(node, time)
            node = int(tree.parent[node])
    for parent in range(len(tree.parent)):
        children = [c for c in range(len(tree.parent)) if tree.parent[c] == parent]
        keys = [key[c] for c in sorted(children, key=first_visit.__getitem__)]
        assert keys == sorted(keys, reverse=True)


@settings(deadline=None)
@given(PROMPTS, st.integers(0, 2**32 - 1))
def test_costs_add_up(prompts, seed) -> None:
    tree = build_tree(*flatten(prompts))
    n = len(prompts)
    output = np.random.default_rng(seed).integers(1, 50, n).astype(float)
    sums, compute, memory = node_costs(tree, output, SHAPE, flops=2.0, read_bytes=4.0)
    lengths = np.array([len(p) for p in prompts], float)
    nothing = np.zeros(n)
    # Every distinct prefix of length i is one token that sees i keys: the tree pays for each once.
    body = 2 * SHAPE.body_parameters
    prefill = sum(body + 2 * (2 * len(p) - 1) * SHAPE.query_size * SHAPE.layers for p in trie_of(prompts))
    decode = SHAPE.request_flops(nothing, nothing, output).sum()
    assert compute.sum() == pytest.approx((prefill + decode) / 2.0)
    assert memory == pytest.approx(SHAPE.request_kv_bytes(lengths, output) / 4.0)
    assert sums.compute[-1] == pytest.approx(compute.sum())
    assert sums.memory[-1] == pytest.approx(memory.sum())
    for node in range(n, len(tree.parent)):
        children = tree.parent == node
        assert sums.memory[node] == pytest.approx(sums.memory[children].sum())
        assert sums.compute[node] >= sums.compute[children].sum() * (1 - 1e-12)
    alone = SHAPE.request_flops(lengths, nothing, output) / 2.0
    assert (compute <= alone * (1 + 1e-12)).all()


def test_twins_bear_equal_parts() -> None:
    tree = build_tree(*flatten([[1, 2, 3], [1, 2, 3], [4]]))
    _, compute, _ = node_costs(tree, np.array([5.0, 5.0, 5.0]), SHAPE, 1.0, 1.0)
    decode = float(SHAPE.request_flops(0.0, 0.0, 5.0))
    prefill = float(SHAPE.request_flops(3.0, 0.0, 0.0)) - 2 * SHAPE.head_parameters
    assert compute[:2] == pytest.approx(decode + prefill / 2)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_is_a_permutation(policy: str) -> None:
    tokens, start = flatten(LONG)
    plan = make_plan(policy, tokens, start, np.full(7, 4.0), SHAPE, NOMINAL["cpu"], seed=1)
    assert sorted(plan.order.tolist()) == list(range(7))
    assert (plan.prompt_tokens, plan.distinct_tokens) == (27, 12)
    if policy == "fcfs":
        assert plan.order.tolist() == list(range(7))


def test_blend_runs_from_compute_heavy_to_memory_heavy() -> None:
    prompts = [[i] * 30 for i in range(6)]
    outputs = np.array([3.0, 90.0, 1.0, 40.0, 10.0, 200.0])
    tokens, start = flatten(prompts)
    plan = make_plan("blend", tokens, start, outputs, SHAPE, NOMINAL["cpu"])
    assert (np.diff(plan.density[plan.order]) < 0).all()
    assert plan.order.tolist() == [2, 0, 4, 3, 1, 5]


def test_unknown_policy_and_no_requests() -> None:
    nothing = np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0)
    with pytest.raises(EngineError, match="--policy: 'best' is unknown; choose one of fcfs, random"):
        make_plan("best", *nothing, SHAPE, NOMINAL["cpu"])
    assert len(make_plan("blend", *nothing, SHAPE, NOMINAL["cpu"]).order) == 0
