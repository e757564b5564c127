"""How many multiprocessors attention gets, step by step, and which graphs there are for it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, pair_seconds
from engine.runtime.device.overlap import MARGIN, MOST_KEPT, STRATEGIES, Strategy, fewest, steady
from engine.runtime.schedule.buckets import Buckets, HalvedBucket
from tests.support.device_runners import SHAPE

H200 = NOMINAL["h200"]
SURFACES = {
    16: ((0.2, 0.05), (0.5, 0.5), (0.8, 0.9)),
    32: ((0.2, 0.2), (0.5, 0.2), (0.8, 0.4)),
    64: ((0.2, 0.7), (0.5, 0.4), (0.8, 0.1)),
}


@given(st.dictionaries(st.integers(8, 64), st.floats(1e-4, 1.0), min_size=1), st.integers(8, 64))
def test_the_chosen_k_is_the_best_up_to_the_margin(seconds, present) -> None:
    chosen = steady(seconds, present)
    assert chosen in seconds
    assert seconds[chosen] <= min(seconds.values()) / (1 - MARGIN) * (1 + 1e-12)
    # Once chosen it stays while nothing changes.
    assert steady(seconds, chosen) == chosen


@given(
    base=st.dictionaries(st.integers(8, 64), st.floats(0.5, 1.0), min_size=2, max_size=6),
    noise=st.lists(st.floats(-0.4, 0.4), min_size=4, max_size=40),
)
def test_small_changes_do_not_make_it_go_to_and_fro(base, noise) -> None:
    """Times that move by less than the margin in all change k once at most."""
    present, changes = None, 0
    for i, x in enumerate(noise):
        seconds = {k: t * (1 + x * MARGIN * math.cos(k + i)) for k, t in base.items()}
        chosen = steady(seconds, present)
        changes += present is not None and chosen != present
        present = chosen
    assert changes <= 1


def test_more_attention_gets_more_multiprocessors() -> None:
    strategy = Strategy.of("k-limited", SHAPE, H200, SURFACES)
    assert strategy.kept == (32, 64)
    kept, chosen = None, []
    for share in range(10, 91):
        kept = strategy.choose(1.0 - share / 100, share / 100, kept)
        chosen.append(kept)
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (32, 64)
    back = []
    for share in range(90, 9, -1):
        kept = strategy.choose(1.0 - share / 100, share / 100, kept)
        back.append(kept)
    # Up and down it changes at different shares: that is what keeps it steady in between.
    assert back.count(64) > chosen.count(64)
    costs = strategy.costs
    assert costs is not None
    assert pair_seconds(costs[64], 0.5, 0.5) == pytest.approx(0.5 + 0.4 * 0.5)


def test_the_k_that_are_kept_complement_each_other() -> None:
    assert MOST_KEPT == 2
    assert fewest(SURFACES, 1) == (32,)
    assert fewest(SURFACES, 2) == (32, 64)
    assert fewest(SURFACES, 3) == (16, 32, 64)
    assert fewest({8: SURFACES[16], 24: SURFACES[16]}, 2) == (8,)
    assert fewest({}, 2) == ()


def test_strategies_that_are_not_whole_are_refused() -> None:
    assert [Strategy.of(name, SHAPE, H200, SURFACES).name for name in STRATEGIES] == list(STRATEGIES)
    assert Strategy().kept == Strategy("streams").kept == (None,)
    assert Strategy("streams").choose(1.0, 1.0, None) is None
    with pytest.raises(ValueError, match="'fused' is unknown; choose one of turns"):
        Strategy("fused")
    with pytest.raises(ValueError, match="do not go together"):
        Strategy.of("carveout", SHAPE, H200, {})


@given(
    budget=st.integers(1, 5000),
    sequences=st.integers(1, 600),
    halves=st.tuples(*[st.tuples(st.integers(1, 5000), st.integers(1, 600))] * 2),
)
def test_the_bucket_of_two_halves_holds_both(budget, sequences, halves) -> None:
    budget = max(budget, sequences)
    sizes = [(max(min(t, budget), min(n, sequences)), min(n, sequences)) for t, n in halves]
    buckets = Buckets(budget, sequences)
    found = buckets.of_halves(*sizes, 24)
    assert found.kept == 24
    assert all(found.tokens >= t and found.sequences >= n for t, n in sizes)
    assert budget >= found.tokens >= found.sequences
    if all(128 <= t <= budget / 2 for t, _ in sizes):
        assert found in buckets.halves([16, 24])


def test_the_graphs_of_halves_are_few() -> None:
    assert len(Buckets(4096, 512).halves([32])) == 75
    assert len(Buckets(2048, 512).halves([16, 64])) == 90
    found = Buckets(2048, 512).halves([None])
    assert found == sorted(found, reverse=True, key=lambda bucket: (bucket.tokens, bucket.sequences))
    assert len(set(found)) == len(found)
    assert found[0] == HalvedBucket(1280, 512, None)
