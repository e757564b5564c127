"""Replay of recorded steps: what is recorded, what is replayed, and the makespan estimated from a sample."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cost.step import NOMINAL
from engine.plan.policies import make_plan
from engine.runtime import state
from engine.runtime.core import EngineSettings
from engine.runtime.state.runner import StepResult
from tests.benchmarks.replay import run as replay
from tests.benchmarks.replay import steps as replay_steps
from tests.benchmarks.replay.steps import Recording
from tests.support.simulated_nights import COST, SHAPE, random_night


def recorded(count: int, pages: int = 60, seed: int = 3) -> Recording:
    tokens, start, output, estimate = random_night(seed, 60, 40, 1.0)
    plan = make_plan("blend", tokens, start, estimate, SHAPE, NOMINAL["a100"], seed=3)
    settings = EngineSettings(pages * 4, 4, 24, 8)
    about = {"cell": "some"}
    return replay_steps.record(about, plan, tokens, start, output, settings, COST, count, seed)


@pytest.fixture(scope="module", name="whole")
def _whole() -> Recording:
    return recorded(1 << 30)


@pytest.fixture(scope="module", name="sampled")
def _sampled() -> Recording:
    return recorded(60)


class Modelled:
    """A runner whose clock is that of the model, and that sees what it is given."""

    lag = 1

    def __init__(self) -> None:
        self.now, self.seen = 0.0, []
        self.decoder = SimpleNamespace(config=SimpleNamespace(vocab_size=50))

    def begin(self, sampling, slots, prompts=None) -> None:
        pass

    def launch(self, work, _slots, requests, _wish, _masks=None):
        size = work.size[[state.W_TOKENS, state.W_SAMPLES, state.W_ATTENDED, state.W_KV_DECODE]]
        self.seen.append(size.tolist())
        self.now += float(replay_steps.modelled_seconds(size[None], COST)[0])
        assert len(requests) == size[1]
        return SimpleNamespace(wait=lambda: StepResult(np.zeros(int(size[1]), np.int64), None))


def test_a_replay_of_all_steps_is_the_simulated_makespan(whole: Recording, monkeypatch) -> None:
    runner = Modelled()
    monkeypatch.setattr(replay.time, "perf_counter", lambda: runner.now)
    found = replay.replay(runner, whole, repeats=2)
    assert found["replayed_steps"] == found["steps"] == whole.population.sum()
    assert found["seconds"] == pytest.approx(found["simulated_seconds"], rel=1e-9)
    assert found["standard_error"] == 0.0
    assert found["label"] == "replayed"
    assert np.allclose(found["step_over_model_p5_p50_p95"], 1.0)


def test_a_sample_comes_near_with_its_error(sampled: Recording, monkeypatch) -> None:
    runner = Modelled()
    monkeypatch.setattr(replay.time, "perf_counter", lambda: runner.now)
    assert 60 <= len(sampled.steps) < sampled.about["steps"]
    assert set(sampled.stratum.tolist()) == set(range(len(sampled.population)))
    found = replay.replay(runner, sampled, repeats=1)
    off = abs(found["seconds"] - found["simulated_seconds"])
    assert 0 < found["standard_error"] < 0.05 * found["seconds"]
    assert off < 4 * found["standard_error"]


def test_a_replayed_step_is_the_recorded_one(whole: Recording) -> None:
    runner = Modelled()
    replayer = replay.Replayer(runner, whole)
    size = whole.about["page_size"]
    for index in range(0, len(whole.steps), 7):
        work = replayer.load(index)
        rows = whole.sequences[whole.start[index] : whole.start[index + 1]]
        n, tokens = len(rows), int(rows[:, 0].sum())
        assert (work.size[state.W_SEQUENCES], work.size[state.W_TOKENS]) == (n, tokens)
        assert (rows[: whole.decoding[index], 0] == 1).all()
        places = work.pages[:tokens] * size + work.offsets[:tokens]
        held = sum(-(-int(c) // size) for c in rows[:, 1])
        if held * size <= whole.about["kv_tokens"]:
            assert len(set(places.tolist())) == tokens
        for i, (length, context, sampled) in enumerate(rows.tolist()):
            inside = slice(work.first[i], work.first[i] + length)
            assert work.positions[inside].tolist() == list(range(context - length, context))
            assert ((work.first[i] + length - 1) in work.sample_rows[: work.size[state.W_SAMPLES]]) == sampled


def test_the_runner_itself_computes_recorded_steps() -> None:
    found = replay.dry(steps=12, requests=10)
    assert (found["label"], found["requests"]) == ("replayed", 10)
    assert found["replayed_steps"] >= 12
    assert found["seconds"] > found["standard_error"] >= 0.0
    assert found["end_to_end_seconds"] > 0.0


def test_a_recording_that_is_read_again_is_the_same(sampled: Recording, tmp_path) -> None:
    sampled.save(tmp_path / "steps.npz")
    again = Recording.load(tmp_path / "steps.npz")
    assert again.about == sampled.about
    for name, value in vars(sampled).items():
        if name != "about":
            assert (getattr(again, name) == value).all()
            assert getattr(again, name).dtype == value.dtype


def test_an_engine_that_goes_other_ways_is_noticed(monkeypatch) -> None:
    simulate = replay_steps.simulate

    def other(*arguments, **options):
        run = simulate(*arguments, **options)
        run.trace[len(run.trace) // 2 :, 0] += 1
        return run

    monkeypatch.setattr(replay_steps, "simulate", other)
    with pytest.raises(RuntimeError, match="not those of the simulator"):
        recorded(1 << 30)


@given(st.integers(1, 400), st.integers(1, 300), st.integers(0, 10_000))
def test_the_estimate_is_right_on_average(steps: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace = np.zeros((steps, len(replay_steps.TRACE)), np.int64)
    trace[:, 4] = rng.integers(0, 2, steps)
    seconds = rng.lognormal(0.0, 1.0, steps)
    stratum = replay_steps.strata(trace, seconds)
    for h in range(stratum.max() + 1):
        assert len(set((trace[stratum == h, 4] > 0).tolist())) == 1
    chosen = replay_steps.choose(stratum, seconds, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) >= min(count, steps)
    kept = Recording({}, chosen, stratum[chosen], seconds[chosen], np.bincount(stratum), *[np.zeros(0)] * 3)
    total, error = replay.makespan(kept, seconds[chosen])
    if len(chosen) == steps:
        assert total == pytest.approx(seconds.sum())
        assert error == 0.0
    else:
        # A constant step time is estimated without error, whatever the sample.
        assert replay.makespan(kept, np.ones(len(chosen))) == (pytest.approx(steps), 0.0)
        assert abs(total - seconds.sum()) < 6 * error + 0.3 * seconds.sum()
