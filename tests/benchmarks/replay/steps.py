"""Chooses steps of a simulated run and records what they consist of, for `run.py`.

The whole trace runs through the simulator. Its steps are put into strata of about equal modelled time, apart
by whether they compute prompts, and some of each are drawn. Then the engine itself goes through the same run
with answers from a script, and of each chosen step the rows and the context of every sequence are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.runtime import state
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.sample.settings import Sampling
from engine.simulate.clock import step_times
from engine.simulate.simulate import simulate
from engine.simulate.steps import TRACE
from tests.support.scripted import ScriptedRunner

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from engine.cost.step import StepCost
    from engine.plan.policies import Plan

    Float64 = npt.NDArray[np.float64]
    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]

LEAST_STEPS = 200
"""Steps that a cell is estimated from, at least, where it has as many."""
STRATA = 12
"""Strata of the steps that compute prompts, and of those that do not."""
_COMPOSED = [state.W_TOKENS, state.W_SAMPLES, state.W_ATTENDED, state.W_KV_DECODE]


@dataclass(frozen=True)
class Recording:
    """Chosen steps of one run.

    Attributes
    ----------
    about
        What was run, with the simulated makespan (`simulated_seconds`) and the sizes of the engine.
    steps, stratum, modelled
        int64 [k], int32 [k], float64 [k]: number of each step in the run, its stratum, its modelled seconds.
    population
        int64 [H]: steps of the whole run in each stratum.
    decoding, start
        int32 [k], int64 [k + 1]: decoding sequences of the step, which come first; step i has the rows
        ``start[i]`` to before ``start[i + 1]`` of `sequences`.
    sequences
        int32 [m, 3]: rows computed, tokens attended to at the last of them, and whether it is sampled.
    """

    about: dict[str, Any]
    steps: Int64
    stratum: Int32
    modelled: Float64
    population: Int64
    decoding: Int32
    start: Int64
    sequences: Int32

    def save(self, path: Path) -> None:
        """Write it as an `.npz` file."""
        arrays = {name: value for name, value in vars(self).items() if name != "about"}
        with path.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(self.about)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            return cls(about, **{name: held[name] for name in held.files if name != "about"})


def modelled_seconds(trace: Int64, cost: StepCost) -> Float64:
    """Return the modelled time of each step of a trace [steps, `engine.simulate.steps.TRACE`]."""
    return step_times(cost, trace, overlap=True, fitted=True)


def strata(trace: Int64, seconds: Float64) -> Int32:
    """Return the stratum of each step: without and with prefill, by modelled time, of equal sums of it."""
    found = np.zeros(len(trace), np.int32)
    prefill = trace[:, TRACE.index("prefill_tokens")] > 0
    first = 0
    for kind in (False, True):
        members = np.flatnonzero(prefill == kind)
        if not len(members):
            continue
        members = members[np.argsort(seconds[members], kind="stable")]
        share = np.cumsum(seconds[members]) / seconds[members].sum()
        _, number = np.unique(np.minimum((share * STRATA).astype(np.int32), STRATA - 1), return_inverse=True)
        found[members] = first + number
        first += int(number.max()) + 1
    return found


def choose(stratum: Int32, seconds: Float64, count: int, seed: int) -> Int64:
    """Return `count` steps or a few more, in rising order: all if there are no more.

    Each stratum gives in proportion to its part of the time, and two at least, so that its spread is seen.
    """
    if count >= len(stratum):
        return np.arange(len(stratum))
    rng, chosen = np.random.default_rng(seed), []
    for h in range(int(stratum.max()) + 1):
        members = np.flatnonzero(stratum == h)
        wanted = int(np.ceil(count * seconds[members].sum() / seconds.sum()))
        chosen.append(rng.choice(members, min(max(wanted, 2), len(members)), replace=False))
    found = np.concatenate(chosen)
    # What small strata could not give comes from all the others.
    rest = np.setdiff1d(np.arange(len(stratum)), found)
    if len(found) < count:
        found = np.concatenate([found, rng.choice(rest, count - len(found), replace=False)])
    return np.sort(found)


class _Recorder(ScriptedRunner):
    """Keeps what the chosen steps consist of."""

    def __init__(self, output: Int32, start: Int64, settings: EngineSettings, chosen: Int64) -> None:
        super().__init__(output, start, settings.kv_tokens, settings.page_size)
        self._chosen, self._step = set(chosen.tolist()), 0
        self.sequences: list[Int32] = []
        self.decoding: list[int] = []
        self.composed: list[Int64] = []

    def launch(self, work, slots, requests, wish, masks=None):
        if self._step in self._chosen:
            n = int(work.size[state.W_SEQUENCES])
            last = work.first[:n] + work.length[:n] - 1
            sampled = np.isin(last, work.sample_rows[: work.size[state.W_SAMPLES]])
            self.sequences.append(np.stack([work.length[:n], work.context[:n], sampled], 1).astype(np.int32))
            read = np.cumsum(work.context[:n])
            self.decoding.append(int(np.searchsorted(read, work.size[state.W_KV_DECODE], "right")))
            self.composed.append(work.size[_COMPOSED].copy())
        self._step += 1
        launched = super().launch(work, slots, requests, wish, masks)
        self.steps.clear()
        return launched


def record(
    about: dict[str, Any],
    plan: Plan,
    tokens: Int32,
    start: Int64,
    output: Int32,
    settings: EngineSettings,
    cost: StepCost,
    count: int = LEAST_STEPS,
    seed: int = 0,
) -> Recording:
    """Simulate a run, choose `count` of its steps and record them.

    Raises
    ------
    RuntimeError
        If the engine does not go through the steps of the simulator.
    """
    run = simulate(plan, tokens, start, output, settings, cost, record=True)
    trace = run.trace
    assert trace is not None
    seconds = modelled_seconds(trace, cost)
    stratum = strata(trace, seconds)
    chosen = choose(stratum, seconds, count, seed)
    runner = _Recorder(output, start, settings, chosen)
    # One limit for all, as in the simulator.
    limit = int(max(output.max(), np.ceil(plan.estimate.max())))
    sampling = [Sampling(max_tokens=limit)] * len(output)
    engine = Engine(runner, None, settings, tokens, start, sampling, plan, cost)
    while engine.unfinished:
        engine.step()
    if len(runner.composed) != len(chosen) or (np.array(runner.composed) != trace[chosen, :4]).any():
        raise RuntimeError("the engine's steps are not those of the simulator")
    sizes = {
        "kv_tokens": settings.kv_tokens,
        "page_size": settings.page_size,
        "token_budget": settings.token_budget,
        "max_sequences": settings.max_sequences,
        "longest": int((np.diff(start) + output).max()),
    }
    total = {"requests": len(output), "tokens": int(start[-1]) + int(output.sum(dtype=np.int64))}
    return Recording(
        about={**about, **sizes, **total, "steps": run.steps, "simulated_seconds": run.seconds},
        steps=chosen.astype(np.int64),
        stratum=stratum[chosen],
        modelled=seconds[chosen],
        population=np.bincount(stratum).astype(np.int64),
        decoding=np.array(runner.decoding, np.int32),
        start=np.concatenate([[0], np.cumsum([len(s) for s in runner.sequences])]).astype(np.int64),
        sequences=np.concatenate(runner.sequences),
    )
