"""Orders: always a permutation, sharing kept, the violation never higher; and against exhaustive search."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.optimum import PRESETS
from engine.cost.step import NOMINAL, ModelShape
from engine.plan import order as orders
from engine.plan import splitting
from engine.plan.order import (
    KEPT,
    allowance,
    arrange,
    blend,
    interleave,
    layer_wise,
    leaf_of,
    saved_tokens,
    segments_of,
)
from engine.plan.policies import POLICIES, make_plan
from engine.plan.scan import LEFT, N_RIGHT, RIGHT, propose
from engine.plan.splitting import find_split, fit_falling, violation_of
from engine.plan.tree import build_tree, distinct_tokens, node_costs
from tests.support.models import flatten

SHAPE = ModelShape(1000, 300, 2, 16, 64, 5200)
PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=10), min_size=1, max_size=16)
SEEDS = st.integers(0, 2**32 - 1)


def common_prefix(a: list[int], b: list[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def adjacent(prompts: list[list[int]], order) -> list[int]:
    return [0, *(common_prefix(prompts[a], prompts[b]) for a, b in itertools.pairwise(order))]


def outputs(count: int, seed: int) -> np.ndarray:
    """From much shorter to much longer than the prompts, so that densities differ by orders of magnitude."""
    return np.exp(np.random.default_rng(seed).uniform(0, 7, count)).round()


def costing(output: np.ndarray):
    return partial(node_costs, output=output, shape=SHAPE, flops=1e3, read_bytes=1e3)


def violation(tree, cost_of) -> float:
    _, compute, memory = cost_of(tree)
    compute, memory = compute[tree.sorted], memory[tree.sorted]
    return violation_of(compute, memory, fit_falling(compute, memory))


def mixed(seed: int, families: int = 4, members: int = 200) -> list[list[int]]:
    """Families of prompts with a shared head of 40 to 400 tokens and own tails."""
    rng = np.random.default_rng(seed)
    heads = [rng.integers(0, 1000, rng.integers(40, 400)).tolist() for _ in range(families)]
    return [
        head + rng.integers(0, 1000, rng.integers(5, 200)).tolist() for head in heads for _ in range(members)
    ]


@settings(deadline=None)
@given(PROMPTS, SEEDS)
def test_any_order_shares_what_its_neighbours_share(prompts, seed) -> None:
    tree = build_tree(*flatten(prompts))
    leaves = np.random.default_rng(seed).permutation(len(prompts)).astype(np.int32)
    found = arrange(tree, leaves)
    assert found.sorted.tolist() == tree.sorted[leaves].tolist()
    assert found.common.tolist() == adjacent(prompts, found.sorted)
    assert saved_tokens(found) == sum(map(len, prompts)) - distinct_tokens(found)
    some = arrange(tree, leaves[: len(prompts) // 2 + 1])
    assert some.common.tolist() == adjacent(prompts, some.sorted)


def test_neighbours_far_apart_in_sorted_order() -> None:
    prompts = [[i % 7 > 0] * (i % 7) + [i % 2, i] for i in range(900)]
    tree = build_tree(*flatten(prompts))
    leaves = np.random.default_rng(0).permutation(900).astype(np.int32)
    found = arrange(tree, leaves)
    assert found.common.tolist() == adjacent(prompts, found.sorted)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=1, max_size=30))
def test_falling_fit(pairs) -> None:
    compute, memory = (np.array(x) for x in zip(*pairs, strict=True))
    fit = fit_falling(compute, memory)
    assert (np.diff(fit) <= 1e-12 * fit[:-1]).all()
    # Weighted least squares of a monotone sequence: by max-min over intervals (Barlow et al., 1972).
    sums = np.concatenate((np.zeros((1, 2)), np.cumsum(np.stack((compute, memory), 1), 0)))
    n = len(pairs)
    for i in range(n):
        bounds = [
            max((sums[k, 0] - sums[j, 0]) / (sums[k, 1] - sums[j, 1]) for k in range(i + 1, n + 1))
            for j in range(i + 1)
        ]
        assert fit[i] == pytest.approx(min(bounds))
    falling = np.sort(compute / memory)[::-1]
    ordered = falling * memory
    # Rounding grows with the sums that the fit is made of.
    nothing = pytest.approx(0, abs=1e-12 * ordered.sum())
    assert violation_of(ordered, memory, fit_falling(ordered, memory)) == nothing


@settings(deadline=None)
@given(PROMPTS, SEEDS)
def test_blend_is_a_permutation_that_keeps_sharing_and_lowers_the_violation(prompts, seed) -> None:
    tree, cost_of = build_tree(*flatten(prompts)), costing(outputs(len(prompts), seed))
    plain = arrange(tree, layer_wise(tree, cost_of(tree)[0]))
    found = blend(tree, cost_of)
    assert sorted(found.sorted.tolist()) == list(range(len(prompts)))
    assert found.common.tolist() == adjacent(prompts, found.sorted)
    # Prompts this short have no immaterial token.
    assert saved_tokens(found) >= KEPT * saved_tokens(tree)
    assert violation(found, cost_of) <= violation(plain, cost_of)


@pytest.mark.parametrize("seed", range(5))
def test_splitting_removes_most_of_the_violation(seed: int) -> None:
    prompts = mixed(seed)
    # Members of a family differ widely; the families overlap.
    tree, cost_of = build_tree(*flatten(prompts)), costing(outputs(len(prompts), seed))
    plain = arrange(tree, layer_wise(tree, cost_of(tree)[0]))
    found = blend(tree, cost_of)
    lost = saved_tokens(tree) - saved_tokens(found)
    assert 0 < lost <= allowance(tree)
    assert sorted(found.sorted.tolist()) == list(range(len(prompts)))
    assert violation(found, cost_of) < 0.8 * violation(plain, cost_of)


def test_more_allowance_removes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = mixed(3)
    tree, cost_of = build_tree(*flatten(prompts)), costing(outputs(len(prompts), 3))
    left = []
    for kept in (1.0, 0.99, 0.9):
        monkeypatch.setattr(orders, "KEPT", kept)
        monkeypatch.setattr(orders, "IMMATERIAL", 0.0)
        found = blend(tree, cost_of)
        assert saved_tokens(found) >= kept * saved_tokens(tree)
        left.append(violation(found, cost_of))
    assert left == sorted(left, reverse=True)
    assert left[2] < 0.5 * left[1]
    assert left[1] < 0.8 * left[0]


def test_prompts_that_share_by_chance_are_sorted_as_if_they_did_not() -> None:
    rng = np.random.default_rng(1)
    prompts = [[int(rng.integers(0, 20)), *rng.integers(0, 10**6, 1500).tolist()] for _ in range(200)]
    tree, cost_of = build_tree(*flatten(prompts)), costing(outputs(200, 1) * 100)
    found = blend(tree, cost_of)
    _, compute, memory = cost_of(found)
    density = (compute / memory)[found.sorted]
    assert violation(found, cost_of) < 0.01 * compute.sum()
    assert np.corrcoef(np.log(density), np.arange(200))[0, 1] < -0.9


def test_a_change_that_makes_the_run_longer_is_not_made() -> None:
    prompts = mixed(2)
    tree, cost_of = build_tree(*flatten(prompts)), costing(outputs(len(prompts), 2))
    plain = arrange(tree, layer_wise(tree, cost_of(tree)[0])).sorted.tolist()
    best = blend(tree, cost_of).sorted.tolist()
    assert best != plain
    asked = []

    def worse(order) -> float:
        asked.append(order.tolist())
        return -float(len(asked))

    assert blend(tree, cost_of, worse).sorted.tolist() == plain
    assert asked == [best, plain]
    assert blend(tree, cost_of, lambda _: 1.0).sorted.tolist() == best


def objective(prompts, order, cost_of, tree) -> float:
    """The violation, where the order keeps enough; else infinite."""
    if sum(adjacent(prompts, order)) < saved_tokens(tree) - allowance(tree):
        return float("inf")
    return violation(arrange(tree, leaf_of(tree)[list(order)]), cost_of)


def test_small_instances_against_exhaustive_search() -> None:
    """Of all orders of up to 6 requests that keep the sharing, ours is among the best."""
    ours, best, worst = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        heads = [rng.integers(0, 50, 30).tolist() for _ in range(2)]
        prompts = [heads[rng.integers(0, 2)] + rng.integers(0, 50, 20).tolist() for _ in range(6)]
        tree, cost_of = build_tree(*flatten(prompts)), costing(outputs(6, seed))
        values = [objective(prompts, o, cost_of, tree) for o in itertools.permutations(range(6))]
        finite = [v for v in values if v < float("inf")]
        found = objective(prompts, blend(tree, cost_of).sorted.tolist(), cost_of, tree)
        assert found >= min(finite) * (1 - 1e-9)
        ours.append(found)
        best.append(min(finite))
        worst.append(np.mean(finite))
    close = sum(a <= b * 1.001 + 1e-12 for a, b in zip(ours, best, strict=True))
    assert close >= 10
    assert sum(ours) < sum(best) + 0.1 * (sum(worst) - sum(best))


def test_a_split_costs_the_path_of_every_further_class() -> None:
    prompts = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6], [7, 8]]
    tree = build_tree(*flatten(prompts))
    memory = np.ones(4)
    # Two densities below [1, 2, 3]: its node and that of [1, 2] are split, 3 tokens in all.
    compute = np.array([9.0, 1.0, 9.0, 1.0])
    assert find_split(tree, compute, memory, 2).tokens == 0
    found = find_split(tree, compute, memory, 3)
    assert (found.disorder, found.tokens, found.of_leaf.tolist()) == (0, 3, [0, 1, 0, 1])
    # The whole of [1, 2, 3] goes one way: only [1, 2] is split.
    found = find_split(tree, np.array([9.0, 9.0, 1.0, 1.0]), memory, 2)
    assert (found.disorder, found.tokens, found.of_leaf.tolist()) == (0, 2, [0, 0, 1, 1])


@settings(deadline=None)
@given(PROMPTS, SEEDS, st.integers(0, 40))
def test_tokens_of_a_split_are_those_of_the_classes_apart(prompts, seed, budget: int) -> None:
    tree = build_tree(*flatten(prompts))
    output = outputs(len(prompts), seed)
    _, compute, memory = costing(output)(tree)
    found = find_split(tree, compute[tree.sorted], memory[tree.sorted], budget)
    assert found.tokens <= budget
    of_request = np.empty(len(prompts), np.int64)
    of_request[tree.sorted] = found.of_leaf
    apart = 0
    for k in set(of_request.tolist()):
        mine = [prompts[i] for i in np.flatnonzero(of_request == k)]
        apart += distinct_tokens(build_tree(*flatten(mine)))
    # At most: a class without any leaf at a node's other children need not compute its path.
    assert apart - distinct_tokens(tree) <= found.tokens


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=2, max_size=5), SEEDS)
def test_the_choice_at_a_price_is_the_best_of_all(prompts, seed) -> None:
    """Of all ways to keep subtrees whole or to split them, at the price that was found."""
    tree = build_tree(*flatten(prompts))
    n, nodes = len(prompts), len(tree.parent)
    rng = np.random.default_rng(seed)
    compute, memory = rng.random(n), rng.random(n) + 0.1
    density = np.array([2.0, 0.7, 0.2])
    alone = splitting._alone(tree.parent, compute, memory, density)
    misfit = np.abs(compute[:, None] - density * memory[:, None])
    assert alone.of_leaf.tolist() == misfit.argmin(axis=1).tolist()
    children = [[c for c in range(nodes) if tree.parent[c] == v] for v in range(nodes)]

    def ways(node: int) -> list[tuple[float, int, frozenset[int]]]:
        """(disorder, tokens, classes) of the subtree, whole or split in every way."""
        if node < n:
            return [(misfit[node].min(), 0, frozenset([int(alone.of_leaf[node])]))]
        whole = [(alone.disorder[node - n], 0, frozenset([int(alone.of_node[node - n])]))]
        edge = int(tree.depth[node] - tree.depth[tree.parent[node]]) if node < nodes - 1 else 0
        split = []
        for parts in itertools.product(*(ways(c) for c in children[node])):
            classes = frozenset().union(*(part[2] for part in parts))
            again = sum(part[1] for part in parts) + edge * (len(classes) - 1)
            split.append((sum(part[0] for part in parts), again, classes))
        return split if node == nodes - 1 else whole + split

    for price in (0.0, 0.01, 0.1, 10.0):
        found = splitting._choose(tree.parent[n:], tree.depth[n:], alone, price, n)
        value = found[0] + price * found[1]
        best = min(d + price * t for d, t, _ in ways(nodes - 1))
        assert value >= best - 1e-9
        # Nodes do not see that a class they add is paid for above them, too.
        assert value <= best + price * tree.depth.max() * n
        if price == 0.0:
            assert value == pytest.approx(best)


def test_class_densities_are_of_equal_parts_of_the_work() -> None:
    compute, memory = np.full(100, 2.0), np.geomspace(0.02, 20, 100)
    found = splitting.class_densities(splitting._bins(compute, memory), compute, memory, 4)
    assert len(found) == 4
    assert (np.diff(found) < 0).all()
    one = splitting.class_densities(splitting._bins(np.ones(5), np.ones(5)), np.ones(5), np.ones(5), 4)
    assert one.tolist() == [1.0]


def test_interleave_mixes_in_proportion() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([5, 9], [30, 10])
    prompts = [[int(g), *rng.integers(0, 9, 3).tolist()] for g in group]
    tree = build_tree(*flatten(prompts))
    order = interleave(tree, group).sorted
    assert sorted(order.tolist()) == list(range(40))
    mixed_in = np.cumsum(group[order] == 9)
    assert np.abs(mixed_in - np.arange(1, 41) / 4).max() <= 1
    for g in (5, 9):
        mine = [prompts[i] for i in order if group[i] == g]
        assert mine == sorted(mine)


@settings(deadline=None)
@given(PROMPTS, SEEDS, st.sampled_from(sorted(POLICIES)))
def test_segments_come_in_their_order(prompts, seed, policy: str) -> None:
    rng = np.random.default_rng(seed)
    n = len(prompts)
    priority, window = rng.integers(0, 3, n), rng.integers(-1, 2, n)
    tokens, start = flatten(prompts)
    device = NOMINAL["cpu"]
    plan = make_plan(policy, tokens, start, outputs(n, seed), SHAPE, device, priority=priority, window=window)
    assert sorted(plan.order.tolist()) == list(range(n))
    keys = [(-priority[i], window[i] if window[i] >= 0 else 99) for i in plan.order]
    assert keys == sorted(keys)
    assert plan.segments.tolist() == [
        0,
        *np.flatnonzero([a != b for a, b in itertools.pairwise(keys)]) + 1,
        n,
    ]
    assert plan.saved_tokens == sum(adjacent(prompts, plan.order))
    free = make_plan(policy, tokens, start, outputs(n, seed), SHAPE, device)
    assert free.segments.tolist() == [0, n]
    assert plan.constraint_tokens == max(0, free.saved_tokens - plan.saved_tokens)
    assert plan.constraint_seconds >= 0
    assert free.constraint_tokens == free.constraint_seconds == 0


def test_a_segment_is_blended_inside() -> None:
    prompts = [[i] * 30 for i in range(6)]
    output = np.array([3.0, 90.0, 1.0, 40.0, 10.0, 200.0])
    plan = make_plan(
        "blend", *flatten(prompts), output, SHAPE, NOMINAL["cpu"], priority=np.array([0, 9, 0, 9, 0, 9])
    )
    assert plan.order.tolist() == [3, 1, 5, 2, 0, 4]
    assert plan.segments.tolist() == [0, 3, 6]
    # Memory-heavy ones first alone: their memory time has no compute to run beside.
    assert plan.constraint_seconds > 0


def test_segment_numbers() -> None:
    assert segments_of(None, None, 3).tolist() == [0, 0, 0]
    assert segments_of(np.array([0, 9, 0]), None, 3).tolist() == [1, 0, 1]
    assert segments_of(np.array([1, 1, 1, 2]), np.array([-1, 7, 3, -1]), 4).tolist() == [3, 2, 1, 0]


def test_prompts_that_are_embedded_lie_at_the_compute_heavy_end_beside_long_answers() -> None:
    """Without an answer a request is as compute-heavy as can be; the scan takes from both ends at a time."""
    rng = np.random.default_rng(2)
    sizes, output = np.array([300, 80, 200] * 20), np.array([0.0, 900.0, 40.0] * 20)
    start = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    tokens = rng.integers(3, 30_000, start[-1]).astype(np.int32)
    plan = make_plan("blend", tokens, start, output, PRESETS["llama-3.1-8b"], NOMINAL["a100"])
    embedded = output == 0
    assert (plan.memory[embedded] == 0).all()
    assert (plan.compute > 0).all()
    assert embedded[plan.order[:20]].all()
    assert (output[plan.order[-20:]] == 900).all()
    scan = plan.scan()
    assert not scan.heavy[embedded].any()
    assert scan.heavy[output == 900].all()
    assert propose(scan, LEFT, 0) == plan.order[0]
    assert propose(scan, RIGHT, int(scan.cursor[N_RIGHT]) - 1) in np.flatnonzero(output == 900)
