"""Planning again: what remains, in the order that the answers so far suggest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.plan.features import Features
from engine.plan.length_model import History, LengthModel
from engine.plan.policies import make_plan, plan_tree
from engine.plan.replan import Replanning, Watch
from engine.plan.sampled import choose_sample
from engine.plan.scan import (
    HEAVY_RETRY,
    NOBODY,
    RETRY,
    RIGHT,
    SIDES_MOVED,
    give_back,
    propose,
    waiting_requests,
)
from engine.plan.scan import accept as take
from engine.plan.tree import build_tree
from engine.runtime.core import EngineSettings
from engine.runtime.schedule.revision import Reviser
from engine.simulate.simulate import simulate

SHAPE = ModelShape(
    body_parameters=10**9,
    head_parameters=10**8,
    layers=16,
    query_size=2048,
    kv_bytes_per_token=65_536,
    weight_bytes=2 * 10**9,
)
DEVICE = NOMINAL["a100"]
COST = step_cost(SHAPE, DEVICE, overlap=True, interference=0.0)
SETTINGS = EngineSettings(kv_tokens=120_000, token_budget=2048, max_sequences=256, pacing=True)


def night(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two workloads in turn behind their own beginnings: short answers, and long ones. As simulated."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 8 // 7
    size = np.where(group == 0, rng.integers(200, 500, n), rng.integers(60, 90, n))
    start = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    tokens = rng.integers(10, 10_000, start[-1], dtype=np.int32)
    for i in range(n):
        tokens[start[i] : start[i] + 40] = group[i]
    mean = np.where(group == 0, 20, 1500)
    output = np.maximum(1, mean * rng.gamma(6.0, 1 / 6, n)).astype(np.int32)
    return tokens, start, group.astype(np.int64), output


def replanning_of(
    tokens: np.ndarray, start: np.ndarray, group: np.ndarray, history: History | None = None
) -> Replanning:
    tree, limit = build_tree(tokens, start), np.full(len(group), 8000, np.int64)
    model = LengthModel.of(Features.of(tokens, start, group), limit, history)
    return Replanning("blend", 0, tree, limit, None, None, model, choose_sample(tree, 0.02))


@pytest.mark.parametrize("learned", [True, False])
def test_prompts_that_are_embedded_have_no_length_and_teach_none(learned: bool) -> None:
    tokens, start, group, output = night(200)
    found = replanning_of(tokens, start, group)
    if not learned:
        found = replace(found, model=None, sample=np.arange(0, 200, 5, dtype=np.int32))
    embedded = group == 0
    plain = replace(found, sample=found.sample[~embedded[found.sample]])
    found = replace(found, prefill_only=embedded)
    found = Replanning.from_arrays(found.arrays())
    generated = np.where(np.arange(200) % 5 == 0, output, 0).astype(np.int32)
    ended = (generated > 0).astype(np.int8)
    # As the engine counts them: one row came out, and nothing ended by itself.
    generated[embedded & (generated > 0)] = 1
    ended[embedded] = 0
    estimate = found.estimate(generated, ended)
    assert (estimate[embedded] == 0).all()
    assert (estimate[~embedded] >= 1).all()
    if not learned:
        expected = plain.estimate(np.where(embedded, 0, generated).astype(np.int32), ended)
        np.testing.assert_array_equal(estimate[~embedded], expected[~embedded])


@pytest.mark.parametrize("policy", ["blend", "dfs", "fcfs", "random", "interleave"])
def test_plan_of_the_rest_is_the_plan_of_the_rest_alone(policy: str) -> None:
    tokens, start, group, output = night(300)
    found = replace(replanning_of(tokens, start, group), policy=policy, group=group)
    estimate = output.astype(np.float64)
    rest = np.sort(np.random.default_rng(1).permutation(300)[:170]).astype(np.int32)
    again = found.replan(rest, estimate, SHAPE, DEVICE)
    parts = [tokens[start[i] : start[i + 1]] for i in rest]
    own = np.concatenate(([0], np.cumsum([len(p) for p in parts]))).astype(np.int64)
    alone = make_plan(policy, np.concatenate(parts), own, estimate[rest], SHAPE, DEVICE, group=group[rest])
    np.testing.assert_array_equal(again.order, rest[alone.order])
    np.testing.assert_allclose(again.compute[rest], alone.compute)
    np.testing.assert_array_equal(again.linked, alone.linked)


def test_segments_stay_in_their_order() -> None:
    tokens, start, group, output = night(200)
    segment = np.random.default_rng(2).integers(0, 4, 200)
    found = replace(replanning_of(tokens, start, group), segment=segment)
    rest = np.flatnonzero(segment != 1).astype(np.int32)
    again = found.replan(rest, output.astype(np.float64), SHAPE, DEVICE)
    assert sorted(again.order.tolist()) == rest.tolist()
    assert (np.diff(segment[again.order]) >= 0).all()
    assert len(again.segments) == 4


def test_the_sample_comes_first_within_its_segment() -> None:
    tokens, start, _, output = night(200)
    tree, first = build_tree(tokens, start), np.array([3, 50, 199], np.int32)
    estimate, priority = output.astype(np.float64), (np.arange(200) >= 100).astype(np.int64)
    plan = plan_tree("blend", tree, estimate, SHAPE, DEVICE, first=first)
    assert set(plan.order[:3].tolist()) == {3, 50, 199}
    assert sorted(plan.order.tolist()) == list(range(200))
    plan = plan_tree("blend", tree, estimate, SHAPE, DEVICE, first=first, priority=priority)
    assert plan.order[0] == 199
    assert set(plan.order[100:102].tolist()) == {3, 50}


def test_watch_looks_ever_less_often_but_to_the_end() -> None:
    watch, looks = Watch(10_000, 1e6), []
    for finished in range(10_001):
        if watch.due(finished, 100 * finished):
            watch.looked(finished, 100 * finished)
            looks.append(finished)
    assert looks[0] <= 16
    assert 10 <= len(looks) <= 60
    assert max(np.diff(looks)) <= 501
    assert looks[-1] > 9_400


def test_a_new_scan_knows_what_runs_and_what_was_sent_back() -> None:
    tokens, start, group, output = night(120)
    found = replanning_of(tokens, start, group)
    plan = make_plan("blend", tokens, start, output.astype(np.float64), SHAPE, DEVICE)
    scan = plan.scan()
    for _ in range(5):
        take(scan, 0, 0)
        take(scan, RIGHT, 0)
    sent_back = int(scan.left[2])
    give_back(scan, sent_back, 7.0, 0.25, 0.5)
    waiting = waiting_requests(scan)
    assert len(waiting) == 110
    assert sent_back not in waiting

    ended = np.zeros(120, np.int8)
    requests, slots = _state(tokens, start, output)
    reviser = Reviser(found, plan, SHAPE, DEVICE)
    requests.generated[:] = np.where(np.isin(np.arange(120), waiting), 0, 2 * output)
    ended[requests.generated > 0] = 1
    new = reviser.look(requests, slots, scan, ended, 16, 2048)
    assert reviser.replans == 1
    assert sorted(waiting_requests(new).tolist()) == sorted(waiting.tolist())
    again = HEAVY_RETRY if new.heavy[sent_back] else RETRY
    assert propose(new, again, 0) == sent_back
    assert new.cursor[SIDES_MOVED]
    everything = new.waiting[1] + new.waiting[2]
    assert everything == pytest.approx(reviser.plan.memory[waiting].sum() + 0.5)
    take(new, again, 0)
    assert propose(new, again, 0) == NOBODY


def _state(tokens: np.ndarray, start: np.ndarray, output: np.ndarray):
    from engine.runtime.state import make_requests, make_slots

    n = len(output)
    requests = make_requests(
        tokens, start, np.full(n, 8000, np.int32), output.astype(np.float64), np.zeros(n, np.int8)
    )
    return requests, make_slots(8, 600, 1)


def test_arrays_keep_everything() -> None:
    tokens, start, group, output = night(200)
    found = replace(replanning_of(tokens, start, group), segment=np.arange(200) % 2)
    again = Replanning.from_arrays(found.arrays())
    ended = (np.arange(200) % 3 == 0).astype(np.int8)
    generated = np.where(ended == 1, output, 0).astype(np.int32)
    estimate = found.estimate(generated, ended)
    np.testing.assert_array_equal(again.estimate(generated, ended), estimate)
    rest = np.flatnonzero(ended == 0).astype(np.int32)
    orders = [r.replan(rest, estimate, SHAPE, DEVICE).order for r in (found, again)]
    np.testing.assert_array_equal(*orders)


@pytest.mark.parametrize("combined", [True, False])
def test_wrong_estimates_cost_less_when_planned_again(combined: bool, capsys: pytest.CaptureFixture) -> None:
    """Earlier nights, or the limit, say that all answers are alike; tonight's differ much."""
    tokens, start, group, output = night(3000)
    limit = np.full(3000, 8000, np.int64)
    old = History(
        Features.of(tokens, start, group),
        np.where(group == 0, 400.0, 300.0),
        np.ones(3000, np.int8),
        np.ones(3000),
    )
    found = replanning_of(tokens, start, group, old if combined else None)
    nothing = (np.zeros(3000, np.int32), np.zeros(3000, np.int8))
    wrong = found.estimate(*nothing) if combined else 0.5 * limit
    if not combined:
        found = replace(found, model=None)
    seconds = {}
    for name, estimate in (("known", output.astype(np.float64)), ("wrong", wrong), ("again", wrong)):
        again = name == "again"
        first = found.sample if again else None
        plan = plan_tree("blend", found.tree, estimate, SHAPE, DEVICE, first=first)
        reviser = Reviser(found, plan, SHAPE, DEVICE) if again else None
        done = simulate(plan, tokens, start, output, SETTINGS, COST, reviser=reviser)
        seconds[name] = done.seconds
    with capsys.disabled():
        print(
            f"\nsimulated makespan over that with known lengths, {'combined' if combined else 'sampled'}: "
            f"as planned {seconds['wrong'] / seconds['known']:.3f}, "
            f"planned again {seconds['again'] / seconds['known']:.3f} ({done.replans} times)"
        )
    assert done.replans > 0
    assert seconds["again"] < seconds["wrong"]
