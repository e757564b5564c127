"""Partition among replicas: nobody lost, both works even, sharing kept, the longest answers spread."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape
from engine.plan.order import saved_tokens
from engine.plan.partition import TOLERANCE, partition
from engine.plan.tree import build_tree, distinct_tokens, node_costs
from tests.support.models import flatten

# Eight billion parameters with grouped heads, so that densities are those of real mixes.
SHAPE = ModelShape(6_979_321_856, 525_336_576, 32, 4096, 131_072, 15_009_316_864)
DEVICE = NOMINAL["a100"]
PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=0, max_size=20)


def costing(output: np.ndarray):
    return partial(node_costs, output=output, shape=SHAPE, flops=DEVICE.flops, read_bytes=DEVICE.read_bytes)


def mix(seed: int, requests: int = 6000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chats, questions that share a prefix by subject, and videos with answers of thousands of tokens."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, requests, p=[0.5, 0.47, 0.03])
    system = rng.integers(0, 10**5, (3, 30))
    subjects = rng.integers(0, 10**5, (40, 300))
    prompts, output = [], np.empty(requests)
    for i, k in enumerate(kind):
        tail = rng.integers(0, 10**5, int(np.clip(rng.lognormal(4.5, 0.8), 5, 1000)))
        subject = subjects[rng.integers(0, 40)] if k == 1 else tail[:0]
        prompts.append(np.concatenate((system[k], subject, tail)))
        output[i] = (rng.lognormal(5, 1), 2, rng.uniform(1000, 8000))[k]
    start = np.concatenate(([0], np.cumsum([len(p) for p in prompts])))
    return np.concatenate(prompts).astype(np.int32), start, np.clip(output, 1, None).round()


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_even_parts_of_a_real_mix(replicas: int, seed: int) -> None:
    tokens, start, output = mix(seed)
    tree, cost_of = build_tree(tokens, start), costing(output)
    found = partition(tree, output, cost_of, replicas)
    assert sorted(np.concatenate(found.requests).tolist()) == list(range(len(output)))
    # The figures are those of each replica's own tree.
    distinct = 0
    for k, requests in enumerate(found.requests):
        parts = [tokens[start[i] : start[i + 1]] for i in requests]
        own = build_tree(np.concatenate(parts), np.concatenate(([0], np.cumsum([len(p) for p in parts]))))
        costs, _, _ = costing(output[requests])(own)
        assert found.compute[k] == pytest.approx(costs.compute[-1])
        assert found.memory[k] == pytest.approx(costs.memory[-1])
        distinct += distinct_tokens(own)
    assert found.recomputed_tokens == distinct - distinct_tokens(tree)
    for work in (found.compute, found.memory):
        assert np.abs(work / work.mean() - 1).max() <= TOLERANCE
    assert found.imbalance <= TOLERANCE
    assert found.recomputed_tokens < 0.05 * saved_tokens(tree)
    # Subtrees stay together: dealt out at random, the replicas would compute far more twice.
    scattered = 0
    for k in range(replicas):
        parts = [tokens[start[i] : start[i + 1]] for i in range(k, len(output), replicas)]
        own = build_tree(np.concatenate(parts), np.concatenate(([0], np.cumsum([len(p) for p in parts]))))
        scattered += distinct_tokens(own)
    assert found.recomputed_tokens < 0.8 * (scattered - distinct_tokens(tree))


@pytest.mark.parametrize("replicas", [2, 8])
def test_each_replica_has_its_part_of_the_longest_answers(replicas: int) -> None:
    tokens, start, output = mix(3)
    found = partition(build_tree(tokens, start), output, costing(output), replicas)
    longest = set(np.argsort(-output)[: 4 * replicas].tolist())
    counts = [len(longest & set(requests.tolist())) for requests in found.requests]
    assert max(counts) - min(counts) <= 2
    assert min(counts) >= 2


@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_replicas_have_the_same_kinds_of_requests(replicas: int) -> None:
    rng = np.random.default_rng(0)
    n = 4000
    start = np.concatenate(([0], np.cumsum(rng.integers(20, 2000, n))))
    tokens = rng.integers(0, 10**5, start[-1]).astype(np.int32)
    output = np.where(rng.random(n) < 0.2, rng.integers(500, 3000, n), rng.integers(1, 40, n)).astype(float)
    tree = build_tree(tokens, start)
    found = partition(tree, output, costing(output), replicas)
    _, compute, memory = costing(output)(tree)
    # Tenths of all work by density, and what each replica has of them.
    dense = np.argsort(-compute / memory)
    reached = np.cumsum(compute[dense] / compute.sum() + memory[dense] / memory.sum())
    tenth = np.empty(n, np.int64)
    tenth[dense] = np.minimum(reached * 5.0, 9.0).astype(np.int64)
    work = np.array([np.bincount(tenth[r], (compute + memory)[r], minlength=10) for r in found.requests])
    deviation = np.abs(work / work.mean(axis=0) - 1.0)
    assert deviation.mean() < 0.15
    assert deviation.max() < 0.6


@settings(deadline=None)
@given(PROMPTS, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_nobody_is_lost(prompts, replicas: int, seed) -> None:
    output = np.random.default_rng(seed).integers(1, 3000, len(prompts)).astype(float)
    tree = build_tree(*flatten(prompts))
    found = partition(tree, output, costing(output), replicas)
    assert len(found.requests) == replicas
    assert sorted(np.concatenate(found.requests).tolist()) == list(range(len(prompts)))
    assert found.recomputed_tokens >= 0
    if replicas == 1:
        assert found.recomputed_tokens == 0
        assert found.imbalance == 0
    apart = [[prompts[i] for i in requests] for requests in found.requests]
    distinct = sum(distinct_tokens(build_tree(*flatten(p))) for p in apart if p)
    assert found.recomputed_tokens == distinct - (distinct_tokens(tree) if prompts else 0)


def test_one_shared_prefix_is_computed_once_by_each_replica() -> None:
    rng = np.random.default_rng(0)
    head = rng.integers(0, 1000, 500).tolist()
    prompts = [head + rng.integers(0, 1000, 50).tolist() for _ in range(400)]
    output = np.full(400, 100.0)
    tree = build_tree(*flatten(prompts))
    found = partition(tree, output, costing(output), 4)
    assert found.recomputed_tokens == pytest.approx(3 * 500, abs=10)
    assert found.imbalance <= TOLERANCE


def test_no_replicas() -> None:
    tree = build_tree(*flatten([[1]]))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        partition(tree, np.ones(1), costing(np.ones(1)), 0)
