"""Measures a device profile: the engine runs made-up requests, and the cost model is fitted to its steps.

Half of the steps, taken in turn, are fitted; the errors reported are those on the other half.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.cost.fit import fit, modelled_seconds, step_errors
from engine.errors import EngineError
from engine.plan.policies import make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.sample.settings import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.cost.metrics import StepSample
    from engine.cost.step import DeviceProfile, ModelShape
    from engine.runtime.state.runner import Runner

MIXES: Final = ((1.0, 1.0), (0.25, 0.25), (0.0625, 0.0625), (1.0, 0.0625))
"""Parts of the step budget and of the running requests that are measured: large and small steps."""
_LEAST_STEPS: Final = 20
_UNSETTLED: Final = 3
"""First steps of a run, which compile and allocate."""


@dataclass(frozen=True)
class Calibration:
    """A fitted profile, and what it is worth.

    Attributes
    ----------
    profile
        The device.
    steps
        How many steps were measured.
    error_p50, error_p95
        Quantiles of the relative error of step times, on the steps that were not fitted.
    error_total
        Relative error of the time of all these steps together: what a long run is off by.
    unseen
        Those of `engine.cost.fit.TERMS` of which the steps say nothing: their rates are made up, so high that
        they add nothing to such steps.
    """

    profile: DeviceProfile
    steps: int
    error_p50: float
    error_p95: float
    error_total: float
    unseen: tuple[str, ...]


def calibrate(
    runner: Runner, shape: ModelShape, device: DeviceProfile, settings: EngineSettings, seconds: float
) -> Calibration:
    """Measure for about `seconds` and fit.

    Parameters
    ----------
    device
        What is taken as known: name, ceilings, memory, link.
    settings
        The largest steps; its KV memory is the runner's.

    Raises
    ------
    EngineError
        If too few steps could be measured in that time.
    """
    steps: list[StepSample] = []
    for seed, (tokens, sequences) in enumerate(MIXES):
        chosen = replace(
            settings,
            max_sequences=max(1, int(sequences * settings.max_sequences)),
            token_budget=max(int(tokens * settings.token_budget), int(sequences * settings.max_sequences), 1),
        )
        steps += _measure(runner, shape, device, chosen, seconds / len(MIXES), seed)
    if len(steps) < _LEAST_STEPS:
        raise EngineError(
            f"--seconds: only {len(steps)} steps could be measured in {seconds:g} s; give more time"
        )
    fitted, unseen = fit(steps[::2], shape, replace(device, source="measured"))
    held_out = steps[1::2]
    p50, p95 = np.quantile(step_errors(held_out, shape, fitted), (0.5, 0.95)).tolist()
    total = modelled_seconds(held_out, shape, fitted).sum() / sum(s.seconds for s in held_out) - 1.0
    return Calibration(fitted, len(steps), p50, p95, float(total), unseen)


def timed_steps(steps: Sequence[StepSample], lag: int) -> list[StepSample]:
    """Return the steps that computed something, each with the time of its own work.

    With a lag the device computes a step while the host goes through the loop of the next one.
    """
    return [
        replace(step, seconds=steps[i + lag].seconds)
        for i, step in enumerate(steps[: len(steps) - lag])
        if step.prefill_tokens + step.decode_tokens
    ]


def mixed_lengths(count: int, longest: int, seed: int = 7) -> tuple[list[int], list[int]]:
    """Return log-normal prompts and answers in tokens, at most 0.8 and 0.1 of `longest` long."""
    rng = np.random.default_rng(seed)
    prompts = rng.lognormal(np.log(0.1 * longest), 0.9, count).clip(2, 0.8 * longest)
    outputs = rng.lognormal(np.log(0.025 * longest), 0.7, count).clip(2, 0.1 * longest)
    return prompts.astype(int).tolist(), outputs.astype(int).tolist()


def _measure(
    runner: Runner,
    shape: ModelShape,
    device: DeviceProfile,
    settings: EngineSettings,
    seconds: float,
    seed: int,
) -> list[StepSample]:
    """Run requests of random tokens and lengths for a while."""
    longest = min(runner.decoder.config.max_positions, runner.kv_tokens, 5 * settings.token_budget)
    prompts, outputs = mixed_lengths(8 * settings.max_sequences, longest, seed)
    start = np.concatenate([[0], np.cumsum(prompts)]).astype(np.int64)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, runner.decoder.config.vocab_size, start[-1]).astype(np.int32)
    sampling = [Sampling(max_tokens=n, ignore_eos=True) for n in outputs]
    plan = make_plan("blend", tokens, start, np.array(outputs, np.float64), shape, device, seed=seed)
    engine = Engine(runner, None, settings, tokens, start, sampling, plan)
    steps: list[StepSample] = []
    end = time.perf_counter() + seconds
    while engine.unfinished and (time.perf_counter() < end or len(steps) <= 2 * _UNSETTLED):
        steps.append(engine.step()[1])
    engine.drain()
    return timed_steps(steps, runner.lag)[_UNSETTLED:]
