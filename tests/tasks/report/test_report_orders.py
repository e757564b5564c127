"""Counterfactual orders: the real policies on true lengths, bounded by the optimum; samples keep prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.choices import POLICIES
from engine.cost.optimum import PRESETS
from engine.cost.profiles import NOMINAL
from engine.runtime.core import EngineSettings
from tasks.report import orders
from tasks.report.orders import choose_sample, compare_orders

SHAPE = PRESETS["qwen3-0.6b"]
ENGINE = EngineSettings(kv_tokens=2048, page_size=16, token_budget=128, max_sequences=16)


def prompts(groups: int, members: int, prefix: int = 64, own: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Requests of groups with a prefix each, the groups' members far apart."""
    rng = np.random.default_rng(1)
    heads = rng.integers(0, 1000, (groups, prefix))
    rows = [np.concatenate((heads[i % groups], rng.integers(0, 1000, own))) for i in range(groups * members)]
    start = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return np.concatenate(rows).astype(np.int32), start


def test_every_policy_is_compared() -> None:
    tokens, start = prompts(8, 8)
    output = np.random.default_rng(2).integers(1, 40, 64)
    # Two without an answer are left out.
    output[:2] = 0
    found = compare_orders(
        tokens, start, output, output.astype(float), np.arange(64) % 2, SHAPE, NOMINAL["a100"], ENGINE
    )
    assert found is not None
    assert (found.requests, found.of) == (62, 62)
    assert {order.policy for order in found.orders} == set(POLICIES)
    seconds = [order.seconds for order in found.orders]
    assert seconds == sorted(seconds)
    assert not found.overlaps
    for order in found.orders:
        assert order.seconds >= found.ideal_seconds * (1 - 1e-9) > 0
        assert order.compute + order.memory - order.hidden == pytest.approx(order.seconds)
        assert 0 <= order.hit_rate < 1
    by_name = {order.policy: order for order in found.orders}
    assert by_name["dfs"].hit_rate >= by_name["random"].hit_rate


def test_nothing_answered() -> None:
    tokens, start = prompts(1, 4)
    nothing = np.zeros(4, np.int64)
    args = (np.ones(4), nothing, SHAPE, NOMINAL["a100"], ENGINE)
    assert compare_orders(tokens, start, nothing, *args) is None


def test_a_sample_keeps_prefixes_together(monkeypatch) -> None:
    tokens, start = prompts(40, 32)
    output = np.full(1280, 5)
    monkeypatch.setattr(orders, "MOST_REQUESTS", 320)
    chosen = choose_sample(tokens, start, output, np.arange(1280))
    assert len(chosen) == 320
    # Ten whole groups rather than a few of each of all forty.
    assert np.unique(chosen % 40).size == 10
    assert np.array_equal(chosen, choose_sample(tokens, start, output, np.arange(1280)))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 300), st.integers(1, 20_000))
def test_a_sample_is_bounded_and_in_order(requests: int, most: int, amount: int) -> None:
    tokens, start = prompts(requests, 1, 16, 4)
    output = np.random.default_rng(requests).integers(0, 30, requests)
    answered = np.flatnonzero(output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "MOST_REQUESTS", most)
        patch.setattr(orders, "MOST_TOKENS", amount)
        chosen = choose_sample(tokens, start, output, answered)
    assert set(chosen.tolist()) <= set(answered.tolist())
    assert np.all(np.diff(chosen) > 0)
    assert len(chosen) <= max(most, orders.GROUP)
    assert bool(len(chosen)) == bool(len(answered))
    size = (np.diff(start) + output)[chosen].sum()
    assert size <= amount or len(chosen) <= orders.GROUP
