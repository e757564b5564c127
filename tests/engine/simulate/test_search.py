"""The search for a schedule: what it samples, that it finds the best in its budget, and that it repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.plan.policies import plan_tree
from engine.plan.scan import HALF_RESERVE, WHOLE_RESERVE
from engine.plan.tree import build_tree
from engine.runtime.settings import EngineSettings
from engine.simulate import search as searching
from engine.simulate.schedules import THREE_QUARTERS, Schedule, candidates
from engine.simulate.search import GROUP, Work, sample, search
from engine.simulate.simulate import simulate

SHAPE = ModelShape(6_979_321_856, 525_336_576, 32, 4096, 131_072, 15_009_316_864)
DEVICE = replace(NOMINAL["a100"], overlaps=True)
MOST = EngineSettings(30_000, 16, 2048, 256)


def work_of(groups: int, each: int, long: int, seed: int = 0) -> Work:
    """`groups` of `each` requests behind 400 tokens of their own, short answers; `long` long ones alone."""
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(groups):
        head = rng.integers(0, 50_000, 400)
        prompts += [np.concatenate((head, rng.integers(0, 50_000, 40))) for _ in range(each)]
    prompts += [rng.integers(0, 50_000, 50) for _ in range(long)]
    lengths = np.concatenate((np.full(groups * each, 4.0), rng.uniform(300, 900, long)))
    mixed = rng.permutation(len(prompts))
    prompts, lengths = [prompts[i] for i in mixed], lengths[mixed]
    tokens = np.concatenate(prompts).astype(np.int32)
    start = np.concatenate(([0], np.cumsum([p.size for p in prompts]))).astype(np.int64)
    return Work(build_tree(tokens, start), tokens, start, lengths, np.zeros(len(lengths), np.int64))


WORK = work_of(60, 20, 120)


def seconds(work: Work, schedule: Schedule, device=DEVICE) -> float:
    plan = plan_tree(schedule.policy, work.tree, work.estimate, SHAPE, device, group=work.group)
    output = np.rint(work.estimate).astype(np.int32)
    cost = step_cost(SHAPE, device)
    done = simulate(schedule.of(plan), work.tokens, work.start, output, schedule.settings(MOST), cost)
    return done.seconds


@pytest.mark.parametrize("overlaps", [True, False])
def test_the_best_candidate_is_taken_where_all_are_simulated_whole(overlaps: bool) -> None:
    device = replace(DEVICE, overlaps=overlaps)
    found = search(WORK, candidates(MOST), SHAPE, device, MOST, budget=60.0)
    truth = {one: seconds(WORK, one, device) for one in candidates(MOST)}
    assert truth[found.schedule] == min(truth.values())
    assert [t.seconds for t in found.trials] == sorted(truth.values())
    assert all(trial.requests == len(WORK) for trial in found.trials)
    assert found.spent <= found.budget
    assert found.runner_up is not None
    assert f"{found.runner_up.seconds / found.trials[0].seconds - 1:.1%} more" in found.why


def test_a_small_budget_samples_and_keeps_to_it() -> None:
    whole = search(WORK, candidates(MOST), SHAPE, DEVICE, MOST, budget=60.0)
    budget = 0.9 * whole.spent
    found = search(WORK, candidates(MOST), SHAPE, DEVICE, MOST, budget=budget)
    assert 0 < found.trials[-1].requests < len(WORK)
    assert found.spent <= 1.2 * budget
    assert seconds(WORK, found.schedule) <= 1.02 * whole.trials[0].seconds
    assert search(WORK, candidates(MOST), SHAPE, DEVICE, MOST, budget=budget) == found


def test_without_a_budget_it_is_a_hundredth_of_the_expected_time(monkeypatch) -> None:
    found = search(WORK, candidates(MOST), SHAPE, DEVICE, MOST)
    best = min(seconds(WORK, one) for one in candidates(MOST))
    assert found.budget <= 0.01 * best
    monkeypatch.setattr(searching, "MOST_SECONDS", found.budget / 2)
    assert search(WORK, candidates(MOST), SHAPE, DEVICE, MOST).budget == found.budget / 2


def test_what_cannot_be_searched_takes_the_first_and_says_why() -> None:
    few = WORK.take(np.arange(100))
    found = search(few, candidates(MOST), SHAPE, DEVICE, MOST)
    assert (found.schedule, found.trials) == (candidates(MOST)[0], ())
    assert "fewer than 128 requests" in found.why
    assert "simulates too few" in search(WORK, candidates(MOST), SHAPE, DEVICE, MOST, budget=1e-6).why
    assert "the only one" in search(WORK, candidates(MOST)[:1], SHAPE, DEVICE, MOST).why
    assert found.runner_up is None


@given(st.integers(0, 100), st.floats(0.05, 0.9))
def test_a_sample_keeps_groups_whole_and_kinds_in_proportion(seed: int, part: float) -> None:
    groups, load = searching._groups(WORK, SHAPE, DEVICE)
    bounds, order = groups
    assert sorted(order.tolist()) == list(range(len(WORK)))
    assert np.diff(bounds).max() <= GROUP
    count = int(part * len(WORK))
    chosen = set(sample(groups, count, seed).tolist())
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert len(chosen.intersection(order[begin:end].tolist())) in (0, end - begin)
    long = set(np.flatnonzero(WORK.estimate > 100).tolist())
    assert abs(len(chosen & long) - part * len(long)) <= 2
    assert abs(len(chosen) - count) <= GROUP
    assert load.shape == (2, len(WORK))


def test_a_sample_shares_as_the_whole_does() -> None:
    groups, _ = searching._groups(WORK, SHAPE, DEVICE)
    part = WORK.take(sample(groups, 200, 1))
    whole, sampled = (
        plan_tree("dfs", one.tree, one.estimate, SHAPE, DEVICE).hit_rate_optimum for one in (WORK, part)
    )
    assert sampled >= 0.95 * whole


def test_candidates_keep_to_the_engine_and_order_only_has_one_step() -> None:
    found = candidates(MOST)
    assert len(set(found)) == len(found)
    assert {one.policy for one in found} == {"blend", "dfs"}
    assert {one.reserve for one in found if one.policy == "blend"} == {
        HALF_RESERVE,
        THREE_QUARTERS,
        WHOLE_RESERVE,
    }
    assert {one.token_budget for one in found} == {512, 1024, 2048}
    small = replace(MOST, token_budget=300)
    assert {one.token_budget for one in candidates(small)} == {300}
    only = candidates(MOST, order_only=True)
    assert [(one.policy, one.token_budget, one.pacing) for one in only] == [
        ("blend", 2048, False),
        ("dfs", 2048, False),
    ]


@given(st.sampled_from(candidates(MOST)))
def test_a_schedule_is_read_as_it_was_told(schedule: Schedule) -> None:
    assert Schedule.read(schedule.told()) == schedule
    sizes = schedule.settings(MOST)
    assert (sizes.token_budget, sizes.pacing) == (schedule.token_budget, schedule.pacing)
    assert schedule.policy in str(schedule)
    assert f"{schedule.token_budget:,}" in str(schedule)


def test_the_best_of_each_policy_goes_on() -> None:
    ranked = [Schedule("blend", budget, pacing=False) for budget in (1, 2, 3)]
    ranked += [Schedule("dfs", budget, pacing=False) for budget in (4, 5)]
    found = [(one.policy, one.token_budget) for one in searching._in_turn(ranked)]
    assert found == [("blend", 1), ("dfs", 4), ("blend", 2), ("dfs", 5), ("blend", 3)]
