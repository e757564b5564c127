"""Estimators of answer lengths: scored on nights with features, and what each costs in makespan.

    python -m tests.benchmarks.plan.lengths --write     # everything, some minutes
    python -m tests.benchmarks.plan.lengths --quick     # a trial

A night is a mix of `workloads.recipe`. Its MMLU questions get explained answers, of a mean length by subject
(log-normal); all other lengths are those of the traces. From night to night the lengths of every workload
drift by a factor. Scores are of requests that have not run, once nothing of the night is known, and once its
sample of 1 % is answered. Makespans are simulated (modelled H200, perfect overlap).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cost.step import NOMINAL, step_cost
from engine.plan.features import Features
from engine.plan.length_model import History, LengthModel
from engine.plan.lengths import SAMPLE, estimate_lengths, fixed_lengths
from engine.plan.policies import plan_tree
from engine.plan.replan import Replanning
from engine.plan.sampled import choose_sample
from engine.plan.tree import build_tree
from engine.runtime.core import EngineSettings
from engine.runtime.schedule.revision import Reviser
from engine.simulate.simulate import simulate
from tasks.plan.lengths import FADING
from tests.benchmarks.lib import places, workloads
from tests.benchmarks.plan.cells import PACED_BUDGET, PAGE_SIZE, SHAPE, SLOTS, kv_tokens

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.plan.tree import PrefixTree
    from tests.benchmarks.lib.workloads import Workload

    Float64 = npt.NDArray[np.float64]
    Int64 = npt.NDArray[np.int64]

RESULTS = places.RESULTS / "lengths.json"
DEVICE = "h200"
DENSITY, SHARING = 1.1, 0.25
LIMIT = 65_536
SUBJECT_PREFIX = 48
"""Tokens by which the subject of an MMLU prompt is known: system prompt, head, and its name."""
NIGHTS = 3
"""Earlier nights."""
DRIFT = 1.25
"""From one night to the next a workload's lengths change by up to this factor, either way."""
LOG_NOISE = 0.5
"""Logged lengths are of another model: right up to this standard deviation of the logarithm, and a bias."""
LOG_BIAS = 0.7
SIGNAL = 0.02
"""Features say something if they lower the pinball loss by this part."""


@dataclass(frozen=True)
class Night:
    """One night: its requests with their lengths, prefix tree, features, and logged lengths."""

    mix: Workload
    tree: PrefixTree
    features: Features
    logged: Float64

    @property
    def n(self) -> int:
        return self.mix.requests

    @property
    def limit(self) -> Int64:
        return np.full(self.n, LIMIT, np.int64)

    @property
    def group(self) -> Int64:
        return self.features.group


def drift(night: int, groups: int, seed: int) -> Float64:
    """Return the factor of each workload's lengths on a night: a random walk over the nights."""
    steps = np.random.default_rng((seed, 7)).uniform(-1.0, 1.0, (night + 1, groups))
    return DRIFT ** steps.sum(axis=0)


def subjects(mix: Workload, place: Int64) -> Int64:
    """Return a number for the subject of each MMLU request, by what its prompt begins with."""
    begins = np.stack([mix.tokens[mix.start[i] : mix.start[i] + SUBJECT_PREFIX] for i in place])
    # The system prompt is drawn anew for every mix.
    return np.unique(begins[:, workloads.SYSTEM_TOKENS :], axis=0, return_inverse=True)[1].reshape(-1)


def make_night(number: int, requests: int, seed: int, *, same_mix: bool = False) -> Night:
    """Return night `number`; all nights have the same system prompts, as one job's nights have."""
    device = NOMINAL[DEVICE]
    mix = workloads.recipe(
        DENSITY, SHARING, SHAPE, device, requests, "azure", seed=1 + number * (not same_mix)
    )
    tokens, rng = mix.tokens.copy(), np.random.default_rng((seed, number))
    fixed = np.random.default_rng(seed).integers(1_000, 128_000, (len(mix.workloads), 12), dtype=np.int32)
    for i in range(mix.requests):
        tokens[mix.start[i] : mix.start[i] + 12] = fixed[mix.workload[i]]
    output = mix.output.astype(np.float64)
    mmlu = np.flatnonzero(mix.workload == mix.workloads.index("mmlu"))
    subject = subjects(mix, mmlu)
    means = 10 ** np.random.default_rng((seed, 3)).uniform(1.0, 2.7, subject.max() + 1)
    output[mmlu] = means[subject] * np.exp(0.5 * rng.standard_normal(mmlu.size) - 0.125)
    factor = drift(number, len(mix.workloads), seed)[mix.workload]
    output = np.clip(np.rint(output * factor), 1, LIMIT - 1).astype(np.int32)
    mix = replace(mix, tokens=tokens, output=output)
    logged = np.rint(LOG_BIAS * output * np.exp(LOG_NOISE * rng.standard_normal(mix.requests)))
    group = mix.workload.astype(np.int64)
    return Night(
        mix,
        build_tree(tokens, mix.start),
        Features.of(tokens, mix.start, group),
        np.maximum(logged, 1.0),
    )


def history_of(nights: list[Night]) -> History:
    """Return the answers of earlier nights, the last of `nights` counting most."""
    parts = [night.features for night in nights]
    joined = Features(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("group", "keys", "prompt")))
    length = np.concatenate([night.mix.output for night in nights]).astype(np.float64)
    weight = np.concatenate(
        [np.full(night.n, FADING ** (len(nights) - 1 - i)) for i, night in enumerate(nights)]
    )
    return History(joined, length, np.ones(length.size, np.int8), weight)


def pinball(estimate: Float64, truth: Float64, q: float) -> float:
    """Return the mean pinball loss of a quantile, relative to the mean length."""
    over = truth - estimate
    return float(np.maximum(q * over, (q - 1.0) * over).mean() / truth.mean())


def score(
    mean: Float64, q50: Float64, q90: Float64, night: Night, rest: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Return the scores on the requests of `rest`."""
    truth, cell = night.mix.output[rest].astype(np.float64), cells_of(night)[rest]
    total = np.bincount(cell, truth)
    found = np.bincount(cell, mean[rest])
    return {
        "pinball_q50": pinball(q50[rest], truth, 0.5),
        "pinball_q90": pinball(q90[rest], truth, 0.9),
        "group_mean_error": float(np.abs(found - total).sum() / total.sum()),
    }


def cells_of(night: Night) -> Int64:
    """Return the group of each request: its workload, of MMLU its subject."""
    mix = night.mix
    out = mix.workload.astype(np.int64)
    mmlu = np.flatnonzero(mix.workload == mix.workloads.index("mmlu"))
    out[mmlu] = len(mix.workloads) + subjects(mix, mmlu)
    return out


def answered(
    night: Night, sample: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Return generated tokens and ended flags once the sample is answered."""
    generated, ended = np.zeros(night.n, np.int32), np.zeros(night.n, np.int8)
    generated[sample], ended[sample] = night.mix.output[sample], 1
    return generated, ended


def scores(night: Night, models: dict[str, LengthModel], sample: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Return the scores of every estimator. One that gives means only has them for both quantiles."""
    rest = np.ones(night.n, bool)
    rest[sample] = False
    generated, ended = answered(night, sample)
    out: dict[str, Any] = {}
    means = {
        "fixed": fixed_lengths(night.limit),
        "logged": estimate_lengths(night.logged, night.limit, night.group)[0],
        "sampled": replanning(night, None, sample).estimate(generated, ended),
    }
    for name, mean in means.items():
        out[name] = score(mean, mean, mean, night, rest)
    for name, model in models.items():
        for when, state in (
            ("before", (np.zeros_like(generated), np.zeros_like(ended))),
            ("sampled", (generated, ended)),
        ):
            fit = model.fit(*state)
            out[f"{name}, {when}"] = score(fit.mean, fit.quantile(0.5), fit.quantile(0.9), night, rest)
    return out


def replanning(night: Night, model: LengthModel | None, sample: npt.NDArray[np.int32]) -> Replanning:
    """Return what planning again takes."""
    return Replanning("blend", 0, night.tree, night.limit, None, None, model, sample)


def makespans(night: Night, models: dict[str, LengthModel], sample: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Return simulated seconds by estimator, and the ratio to known lengths."""
    device, mix = NOMINAL[DEVICE], night.mix
    cost = step_cost(SHAPE, device, overlap=True, interference=0.0)
    settings = EngineSettings(
        kv_tokens=kv_tokens(DEVICE),
        page_size=PAGE_SIZE,
        token_budget=PACED_BUDGET,
        max_sequences=SLOTS,
        pacing=True,
    )
    nothing = (np.zeros(night.n, np.int32), np.zeros(night.n, np.int8))
    cells = cells_of(night)
    cell_means = (np.bincount(cells, mix.output) / np.maximum(np.bincount(cells), 1))[cells]
    runs: dict[str, tuple[Float64, Replanning | None]] = {
        "known": (mix.output.astype(np.float64), None),
        "means of the groups": (cell_means, None),
        "fixed": (fixed_lengths(night.limit), None),
        "logged": (estimate_lengths(night.logged, night.limit, night.group)[0], None),
    }
    for name, model in (("sampled", None), *models.items()):
        found = replanning(night, model, sample)
        runs[name] = (found.estimate(*nothing), found)
    out: dict[str, Any] = {}
    for name, (estimate, found) in runs.items():
        first = None if found is None else found.sample
        plan = plan_tree("blend", night.tree, np.maximum(estimate, 1.0), SHAPE, device, first=first)
        reviser = None if found is None else Reviser(found, plan, SHAPE, device)
        done = simulate(plan, mix.tokens, mix.start, mix.output, settings, cost, reviser=reviser)
        out[name] = {
            "seconds": done.seconds,
            "over_known": done.seconds / out["known"]["seconds"] if out else 1.0,
            "replans": done.replans,
            "retractions": done.preemptions,
            "recomputed_tokens": done.recomputed_tokens,
        }
    return out


def signal(night: Night) -> dict[str, Any]:
    """Return by workload whether features within it say anything of lengths, by half of its answers."""
    half = np.random.default_rng(2).random(night.n) < 0.5
    generated, ended = answered(night, np.flatnonzero(half).astype(np.int32))
    flat = Features(night.group, np.zeros_like(night.features.keys), np.ones(night.n, np.int64))
    medians = [
        LengthModel.of(f, night.limit).fit(generated, ended).quantile(0.5) for f in (flat, night.features)
    ]
    out = {}
    for w, name in enumerate(night.mix.workloads):
        rest = ~half & (night.group == w)
        truth = night.mix.output[rest].astype(np.float64)
        losses = [pinball(m[rest], truth, 0.5) for m in medians]
        gain = 1.0 - losses[1] / losses[0] if losses[0] > 0 else 0.0
        out[name] = {"gain": gain, "signal": "yes" if gain >= SIGNAL else "no signal"}
    return out


def replan_seconds(night: Night, sample: npt.NDArray[np.int32], repeat: int) -> dict[str, Any]:
    """Return the time of one look with a new plan of all requests (measured)."""
    tiles = [night.mix.take(np.arange(night.n)) for _ in range(repeat)]
    tokens = np.concatenate([t.tokens for t in tiles])
    sizes = np.concatenate([np.diff(t.start) for t in tiles])
    start = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    group = np.tile(night.group, repeat)
    n = group.size
    limit = np.full(n, LIMIT, np.int64)
    features = Features.of(tokens, start, group)
    found = Replanning(
        "blend", 0, build_tree(tokens, start), limit, None, None, LengthModel.of(features, limit), sample
    )
    output = np.tile(night.mix.output, repeat)
    generated, ended = np.zeros(n, np.int32), np.zeros(n, np.int8)
    generated[::50], ended[::50] = output[::50], 1
    waiting = np.flatnonzero(generated == 0).astype(np.int32)
    best = np.inf
    for _ in range(3):
        begin = time.perf_counter()
        revision = found.look(waiting, generated, ended, 0.5 * limit, SHAPE, NOMINAL[DEVICE])
        best = min(best, time.perf_counter() - begin)
    assert revision.plan is not None
    return {"requests": n, "waiting": int(waiting.size), "seconds": best}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a trial, not a result")
    parser.add_argument("--requests", type=int, help="of a night, at least (30000)")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    arguments = parser.parse_args(argv)
    requests = arguments.requests or (2_000 if arguments.quick else 30_000)
    begin, seed = time.perf_counter(), 4
    earlier = [make_night(k, requests, seed) for k in range(NIGHTS)]
    night = make_night(NIGHTS, requests, seed)
    history = history_of(earlier)
    sample = choose_sample(night.tree, SAMPLE)
    models = {
        "combined, first night": LengthModel.of(night.features, night.limit),
        "combined": LengthModel.of(night.features, night.limit, history),
        "combined with log": LengthModel.of(night.features, night.limit, history, night.logged),
    }
    result: dict[str, Any] = {
        "label": "scores and makespans simulated, replan measured",
        "device": DEVICE,
        "requests": night.n,
        "earlier_nights": NIGHTS,
        "drift_since_the_last_night": dict(
            zip(
                night.mix.workloads,
                (drift(NIGHTS, 4, seed) / drift(NIGHTS - 1, 4, seed)).round(3).tolist(),
                strict=True,
            )
        ),
        "sampled_requests": len(sample),
        "load_at_start": round(os.getloadavg()[0], 2),
        "signal": signal(night),
        "scores": scores(night, models, sample),
        "makespan": makespans(night, models, sample),
        "replan": replan_seconds(night, sample, max(1, round(100_000 / night.n))),
    }
    result["makespan_vs_oracle"] = result["makespan"]["combined"]["over_known"]
    result["total_seconds"] = time.perf_counter() - begin
    report(result)
    if arguments.write:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    return result


def report(result: dict[str, Any]) -> None:
    """Print the tables."""
    for name in ("label", "device", "requests", "drift_since_the_last_night", "sampled_requests"):
        print(f"{name}: {result[name]}")
    print("\n== do prompts say anything of lengths within a workload? (gain in pinball loss q50)")
    for name, found in result["signal"].items():
        print(f"{name:16s} {found['gain']:+7.1%}  {found['signal']}")
    print(
        f"\n{'estimator':36s} {'q50':>8s} {'q90':>8s} {'groups':>8s}   (pinball losses over the mean length)"
    )
    for name, found in result["scores"].items():
        print(f"{name:36s} " + " ".join(f"{value:8.3f}" for value in found.values()))
    print(
        f"\n{'lengths':28s} {'seconds':>9s} {'over known':>10s} {'replans':>8s} {'preempted':>9s} (simulated)"
    )
    for name, found in result["makespan"].items():
        print(
            f"{name:28s} {found['seconds']:9.1f} {found['over_known']:10.3f} {found['replans']:8d} "
            f"{found['retractions']:9d}"
        )
    replan = result["replan"]
    print(f"\nreplan of {replan['waiting']} waiting requests: {replan['seconds']:.3f} s (measured)")


if __name__ == "__main__":
    main()
