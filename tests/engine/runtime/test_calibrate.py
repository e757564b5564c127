"""Fitting a device profile to measured steps, and measuring steps with an engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.cost.fit import fit, step_errors
from engine.cost.metrics import StepSample
from engine.cost.step import NOMINAL, ModelShape, step_cost, step_seconds
from engine.errors import EngineError
from engine.runtime.calibrate import calibrate, mixed_lengths, timed_steps
from engine.runtime.core import EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from tests.support.models import decoder_of, reference_model

SHAPE = ModelShape.make(
    hidden=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    vocabulary=128256,
    tied=False,
)


def sample(**known: float) -> StepSample:
    return StepSample(**{**dict.fromkeys(StepSample.__dataclass_fields__, 0), **known})


def steps_of(device, count: int = 40, noise: float = 0.0) -> list[StepSample]:
    cost, rng = step_cost(SHAPE, device), np.random.default_rng(0)
    made = []
    for _ in range(count):
        tokens, kv = int(rng.integers(1, 4000)), int(rng.integers(0, 400_000))
        seconds = step_seconds(cost, tokens, 50, 900 * tokens, kv) * rng.uniform(1 - noise, 1 + noise)
        made.append(
            sample(
                tokens=tokens,
                samples=50,
                attended_tokens=900 * tokens + kv,
                kv_tokens_decode=kv,
                seconds=seconds,
            )
        )
    return made


@given(flops=st.floats(1e11, 1e15), read=st.floats(1e10, 1e13), fixed=st.sampled_from([0.0, 1e-3, 5e-2]))
@hypothesis_settings(deadline=None)
def test_the_fit_finds_the_rates_behind_step_times(flops: float, read: float, fixed: float) -> None:
    truth = replace(NOMINAL["h100"], flops=flops, read_bytes=read, step_seconds=fixed, gemm=())
    steps = steps_of(truth)
    fitted, unseen = fit(steps[::2], SHAPE, NOMINAL["a100"])
    # What makes up less than a hundredth of every step is not known from them.
    assert set(unseen) <= {"compute", "memory", "step"}
    least = min(s.tokens for s in steps[::2])
    # What smaller steps than those fitted take is a guess.
    others = [s for s in steps[1::2] if s.tokens >= least]
    assert np.quantile(step_errors(others, SHAPE, fitted), 0.9) < 0.01
    assert (fitted.name, fitted.memory_bytes) == ("a100", NOMINAL["a100"].memory_bytes)
    assert not fitted.overlaps


def test_errors_are_those_of_the_steps() -> None:
    truth = replace(NOMINAL["h100"], gemm=())
    assert min(step_errors(steps_of(truth), SHAPE, NOMINAL["a100"])) > 0.1
    noisy = steps_of(truth, 400, noise=0.2)
    errors = step_errors(noisy[1::2], SHAPE, fit(noisy[::2], SHAPE, truth).profile)
    assert 0.06 < np.median(errors) < 0.14


def test_no_rate_is_negative() -> None:
    """Steps that take less time the more bytes they read: no rate of reading explains that."""
    rng = np.random.default_rng(1)
    kv = rng.integers(0, 400_000, 50)
    steps = [
        sample(
            tokens=100, samples=50, attended_tokens=int(n), kv_tokens_decode=int(n), seconds=1.0 - 2e-6 * n
        )
        for n in kv
    ]
    fitted, unseen = fit(steps, SHAPE, NOMINAL["a100"])
    assert "memory" in unseen
    assert min(fitted.flops, fitted.read_bytes) > 0
    assert fitted.step_seconds >= 0
    assert fitted.read_bytes >= NOMINAL["a100"].read_bytes
    assert np.median(step_errors(steps, SHAPE, fitted)) < 0.5


def test_a_rate_that_is_left_out_adds_nothing() -> None:
    """Steps of one length, whatever is in them, on a device said to be slow."""
    slow = replace(NOMINAL["a100"], flops=1.0, read_bytes=1.0)
    steps = [
        sample(tokens=n, samples=1, attended_tokens=n, kv_tokens_decode=n, seconds=1.0 - 1e-4 * n)
        for n in range(1, 60)
    ]
    assert max(step_errors(steps, SHAPE, fit(steps, SHAPE, slow).profile)) < 0.02


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_small_gemms_have_a_rate_of_their_own(noise: float) -> None:
    table = ((4.0, 0.05), (64.0, 0.4), (512.0, 0.9), (2048.0, 1.0))
    truth = replace(NOMINAL["h100"], gemm=table, step_seconds=1e-3, read_bytes=1e14)
    cost, rng = step_cost(SHAPE, truth), np.random.default_rng(3)
    steps = []
    for tokens in np.exp(rng.uniform(np.log(2), np.log(4096), 600)).astype(int).tolist():
        samples, attended = max(1, tokens // 8), 100 * tokens
        seconds = step_seconds(cost, tokens, samples, attended, 0) * rng.uniform(1 - noise, 1 + noise)
        # Now and then another process takes the machine.
        seconds *= 1.0 if rng.random() < 0.95 or not noise else 5.0
        steps.append(sample(tokens=tokens, samples=samples, attended_tokens=attended, seconds=seconds))
    fitted, unseen = fit(steps[::2], SHAPE, NOMINAL["a100"])
    assert "compute" not in unseen
    exact = [replace(s, seconds=step_seconds(cost, s.tokens, s.samples, s.attended_tokens, 0)) for s in steps]
    assert np.quantile(step_errors(exact, SHAPE, fitted), 0.9) < 0.03 + 0.5 * noise
    efficiency = [part for _, part in fitted.gemm]
    assert efficiency == sorted(efficiency)
    assert efficiency[0] < 0.7
    # One rate for all sizes is far off.
    assert np.quantile(step_errors(exact, SHAPE, replace(fitted, gemm=())), 0.9) > 0.1


def test_with_a_lag_a_step_takes_the_time_of_the_next_loop() -> None:
    steps = [sample(seconds=float(i), decode_tokens=i != 2) for i in range(5)]
    assert [s.seconds for s in timed_steps(steps, 1)] == [1.0, 2.0, 4.0]
    assert [s.seconds for s in timed_steps(steps, 0)] == [0.0, 1.0, 3.0, 4.0]


def test_an_engine_is_measured() -> None:
    """Times are whatever this machine gives; what must hold is that the profile is of these steps."""
    decoder = decoder_of(reference_model("llama"))
    runner = CpuRunner(decoder, 4096)
    settings = EngineSettings(kv_tokens=4096, page_size=16, token_budget=128, max_sequences=16)
    shape = ModelShape.of(decoder.config)
    found = calibrate(runner, shape, NOMINAL["cpu"], settings, 2.0)
    assert found.steps >= 20
    assert found.profile.source == "measured"
    assert 0 < found.error_p50 <= found.error_p95
    assert abs(found.error_total) < 1.0
    assert set(found.unseen) < {"compute", "memory", "step"}
    with pytest.raises(EngineError, match=r"--seconds: only .* give more time"):
        calibrate(runner, shape, NOMINAL["cpu"], settings, 1e-9)


def test_lengths_are_mixed() -> None:
    prompts, outputs = mixed_lengths(1000, 1000)
    assert 2 <= min(prompts) < np.median(prompts) < 0.2 * max(prompts) <= 160
    assert 2 <= min(outputs) <= max(outputs) <= 100
