"""The simulator against the engine itself: the same steps, the same hits, evictions and preemptions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.optimum import PRESETS, optimum
from engine.cost.step import (
    NOMINAL,
    ModelShape,
    step_compute_seconds,
    step_cost,
    step_memory_seconds,
    step_seconds,
)
from engine.errors import CapacityError
from engine.plan.policies import POLICIES, make_plan
from engine.plan.tree import build_tree, cached_tokens
from engine.runtime import state
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule.forecast import RULES
from engine.simulate.simulate import simulate
from engine.simulate.steps import TRACE
from tests.support.models import flatten
from tests.support.scripted import STOP, ScriptedRunner
from tests.support.simulated_nights import COST, SHAPE, random_night

COMPOSITION = [state.W_TOKENS, state.W_SAMPLES, state.W_ATTENDED, state.W_KV_DECODE]


def run_both(
    policy: str,
    night,
    pages: int,
    size: int,
    budget: int,
    sequences: int,
    *,
    pacing: bool,
    admission: str = "peak",
    embedded=None,
):
    """Run the engine step by step and the simulator; return both records and the simulated run."""
    tokens, start, output, estimate = night
    plan = make_plan(policy, tokens, start, estimate, SHAPE, NOMINAL["a100"], seed=3)
    limit = int(max(output.max(), np.ceil(estimate.max())))
    pages = max(pages, -(-int(np.diff(start).max() + limit) // size) + 1)
    sizes = EngineSettings(
        pages * size, size, budget, sequences, pacing=pacing, admission=admission, verify=True
    )
    runner = ScriptedRunner(output, start, pages * size, size)
    sampling = [Sampling(max_tokens=limit)] * len(output)
    if embedded is not None:
        one = Sampling(max_tokens=1, ignore_eos=True, pooling="last")
        sampling = [one if wanted else Sampling(max_tokens=limit) for wanted in embedded]
    engine = Engine(runner, None, sizes, tokens, start, sampling, plan, COST)
    lengths, rows = {}, []
    for done, sample in engine.run():
        lengths.update({c.request: len(c.token_ids) for c in done})
        assert all(c.token_ids[-1] == STOP for c in done if len(c.token_ids) < limit)
        rows.append(
            [*runner.steps[-1][COMPOSITION], sample.prefill_tokens, sample.decode_tokens, sample.running]
        )
    assert [lengths[i] for i in range(len(output))] == output.tolist()
    run = simulate(plan, tokens, start, output, sizes, COST, record=True)
    return engine, np.array(rows), run


def assert_equal(engine: Engine, rows, run, tokens) -> None:
    assert run.trace.tolist() == rows.tolist()
    counters = engine.counters()
    for name in ("steps", "prefill_tokens", "decode_tokens", "preemptions", "recomputed_tokens"):
        assert getattr(run, name) == counters[name], name
    assert run.evicted_pages == counters["evicted_pages"]
    assert run.peak_running == counters["peak_running"]
    assert run.hit_rate == pytest.approx(counters["hit_tokens"] / len(tokens))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(POLICIES)),
    st.integers(2, 40),
    st.sampled_from([3, 12, 60]),
    st.sampled_from([0.2, 1.0, 3.0]),
    st.integers(8, 80),
    st.integers(1, 8),
    st.integers(1, 10),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from(sorted(RULES)),
)
def test_the_engine_takes_the_simulated_steps(
    seed, policy, count, longest, wrong, pages, size, sequences, extra, pacing, admission
) -> None:
    night = random_night(seed, count, longest, wrong)
    budget = sequences + extra
    runs = run_both(policy, night, pages, size, budget, sequences, pacing=pacing, admission=admission)
    assert_equal(*runs, night[0])


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("pacing", [False, True])
def test_the_property_above_reaches_preemptions_evictions_hits_and_jumps(policy: str, pacing: bool) -> None:
    preemptions, evictions, hits, recomputed, jumped = 0, 0, 0.0, 0, 0
    for seed in range(6):
        night = random_night(seed, 30, 40, 0.2)
        engine, rows, run = run_both(policy, night, 30, 1 + seed % 5, 20 + seed, 10, pacing=pacing)
        assert_equal(engine, rows, run, night[0])
        preemptions += run.preemptions
        evictions += run.evicted_pages
        hits += run.hit_rate
        recomputed += run.recomputed_tokens
        jumped += run.jumped
    assert jumped > 0
    assert preemptions > 0
    assert evictions > 0
    assert hits > 0
    assert recomputed > 0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(POLICIES)),
    st.integers(8, 60),
    st.sampled_from([0.2, 1.0]),
    st.booleans(),
    st.sampled_from([0.3, 1.0]),
)
def test_the_engine_takes_the_simulated_steps_with_prompts_that_are_embedded(
    seed, policy, pages, wrong, pacing, part
) -> None:
    """Planned as requests without an answer; to the scheduler they end with the last row of their prompt."""
    tokens, start, output, estimate = random_night(seed, 24, 30, wrong)
    embedded = np.random.default_rng(seed).random(24) < part
    output[embedded] = 1
    estimate[embedded] = 0.0
    night = tokens, start, output, estimate
    engine, rows, run = run_both(policy, night, pages, 4, 24, 8, pacing=pacing, embedded=embedded)
    assert_equal(engine, rows, run, tokens)
    generated = int(output[~embedded].sum()) - int((~embedded).sum())
    # Nothing is decoded for them.
    assert run.decode_tokens <= generated + run.recomputed_tokens
    if run.preemptions == 0:
        assert run.decode_tokens == generated


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(POLICIES)), st.booleans(), st.integers(20, 200))
def test_seconds_are_those_of_the_recorded_steps(seed, policy, pacing, pages) -> None:
    night = random_night(seed, 25, 30, 1.0)
    _, _, run = run_both(policy, night, pages, 4, 40, 8, pacing=pacing)
    names = ("tokens", "samples", "attended", "kv_tokens_read")
    columns = [run.trace[:, TRACE.index(name)] for name in names]
    steps = list(zip(*(c.astype(float) for c in columns), strict=True))
    assert run.seconds == pytest.approx(sum(step_seconds(COST, *step) for step in steps))
    compute = sum(step_compute_seconds(COST, *step[:3]) for step in steps)
    memory = sum(step_memory_seconds(COST, step[0], step[3]) for step in steps)
    assert run.compute_seconds == pytest.approx(compute)
    assert run.memory_seconds == pytest.approx(memory)
    assert max(compute, memory) <= run.seconds * (1 + 1e-9)
    assert run.seconds <= (compute + memory) * (1 + 1e-9)
    assert 0 < run.mean_occupancy <= run.peak_occupancy <= 1


MIXTURE = ModelShape(1000, 100, 2, 16, 64, 8400, experts=8, experts_per_token=2, expert_bytes=6000)
UNEVEN = replace(NOMINAL["a100"], gemm=((1.0, 0.05), (8.0, 0.5), (32.0, 0.4)), pair=((0.3, 0.5), (0.6, 0.1)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([(SHAPE, NOMINAL["a100"]), (MIXTURE, NOMINAL["a100"]), (SHAPE, UNEVEN)]),
    st.sampled_from([None, 0.0, 0.4]),
    st.booleans(),
    st.integers(8, 80),
    st.integers(1, 40),
)
def test_no_schedule_beats_the_optimum(seed, policy, modelled, interference, pacing, pages, longest) -> None:
    shape, device = modelled
    cost = step_cost(shape, device, interference=interference)
    tokens, start, output, estimate = random_night(seed, 25, longest, 1.0)
    pages = max(pages, -(-int((np.diff(start) + output).max()) // 4) + 1)
    plan = make_plan(policy, tokens, start, estimate, shape, device)
    run = simulate(plan, tokens, start, output, EngineSettings(pages * 4, 4, 40, 8, pacing=pacing), cost)
    cached = cached_tokens(build_tree(tokens, start)).astype(float)
    best = optimum(cost, np.diff(start).astype(float), cached, output.astype(float), pages * 4)
    assert best.compute <= run.compute_seconds * (1 + 1e-9)
    assert best.memory <= run.memory_seconds * (1 + 1e-9)
    assert best.steps <= run.steps
    assert max(best.practical, best.plain) <= run.seconds * (1 + 1e-9)


def test_the_optimum_lies_below_a_run_whose_requests_share_almost_everything() -> None:
    rng = np.random.default_rng(4)
    prefix = rng.integers(2, 1000, 400)
    prompts = [[*prefix, *rng.integers(2, 1000, 3)] for _ in range(300)]
    tokens, start = flatten(prompts)
    output = np.full(300, 30, np.int32)
    shape = PRESETS["llama-3.1-8b"]
    cost = step_cost(shape, NOMINAL["a100"], overlap=True)
    plan = make_plan("dfs", tokens, start, output.astype(float), shape, NOMINAL["a100"])
    run = simulate(plan, tokens, start, output, EngineSettings(4000, 16, 512, 128), cost)
    lengths = np.diff(start).astype(float), cached_tokens(build_tree(tokens, start)).astype(float)
    best = optimum(cost, *lengths, output.astype(float), 4000)
    assert 0.4 * run.seconds < best.practical <= run.seconds


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(POLICIES)), st.booleans(), st.integers(8, 80))
def test_every_token_is_computed_once_or_counted_as_recomputed(seed, policy, pacing, pages) -> None:
    tokens, start, output, estimate = random_night(seed, 25, 30, 0.3)
    _, _, run = run_both(policy, (tokens, start, output, estimate), pages, 4, 40, 8, pacing=pacing)
    least = len(tokens) + int(output.sum()) - len(output) - round(run.hit_rate * len(tokens))
    computed = run.prefill_tokens + run.decode_tokens
    if run.preemptions == 0:
        assert computed == least
    else:
        assert least <= computed <= least + run.recomputed_tokens + run.preemptions


def test_the_simulated_scheduler_does_not_see_the_true_lengths() -> None:
    """Two nights that differ only in how one answer ends are the same up to the step in which it does."""
    tokens, start, output, estimate = random_night(5, 20, 30, 1.0)
    estimate[:] = 20.0
    output[:] = 30
    sizes = EngineSettings(400, 4, 32, 8, pacing=True)
    plan = make_plan("blend", tokens, start, estimate, SHAPE, NOMINAL["a100"])
    one = simulate(plan, tokens, start, output, sizes, COST, record=True).trace
    shorter = output.copy()
    shorter[3] = 29
    two = simulate(plan, tokens, start, shorter, sizes, COST, record=True).trace
    same = int(np.argmin((one[: len(two)] == two[: len(one)]).all(1)))
    assert same >= 28


def test_reserving_whole_answers_idles_memory_and_half_of_them_preempts() -> None:
    tokens, start, output, _ = random_night(2, 200, 60, 1.0)
    plan = make_plan("fcfs", tokens, start, output.astype(float), SHAPE, NOMINAL["a100"])
    runs = {
        rule: simulate(plan, tokens, start, output, EngineSettings(600, 4, 64, 64, admission=rule), COST)
        for rule in RULES
    }
    assert runs["total"].mean_occupancy < runs["peak"].mean_occupancy
    assert runs["total"].preemptions == 0
    assert runs["average"].preemptions > runs["peak"].preemptions
    with pytest.raises(
        CapacityError, match="admission: 'free' is unknown; choose one of peak, total, average"
    ):
        EngineSettings(600, 4, 64, 64, admission="free")


def test_a_memory_too_small_for_the_longest_request_is_refused() -> None:
    tokens, start, output, estimate = random_night(1, 8, 60, 1.0)
    output[2] = 60
    plan = make_plan("dfs", tokens, start, estimate, SHAPE, NOMINAL["a100"])
    with pytest.raises(RuntimeError, match="cannot hold the longest request"):
        simulate(plan, tokens, start, output, EngineSettings(40, 4, 16, 4))
