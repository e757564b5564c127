"""What the blend gains with the overlap that was measured, by the simulator: whether it is worth it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cost.step import NOMINAL, DeviceProfile, ModelShape, step_cost
from engine.plan.policies import make_plan
from engine.runtime.core import EngineSettings
from engine.simulate.simulate import simulate
from tests.benchmarks.gpu.bench import Bench, Row
from tests.benchmarks.gpu.engine import LLAMA_8B, random_tokens

if TYPE_CHECKING:
    from engine.cost.step import StepCost

WORTH = 1.15
"""Predicted gain under which the work stops."""
DENSITY = 1.15
"""Of the made-up night: the mean of the published traces."""
BUDGETS = (512, 1024, 2048, 4096, 8192)


def made_up_night(requests: int, shape: ModelShape, device: DeviceProfile) -> tuple[list[int], np.ndarray]:
    """Return prompts and answers: long prompts with short answers, and the opposite, in balance.

    Their compute time is `DENSITY` times their memory time on the device. Answers end at 4,096 tokens, so
    that the longest one is a small part of the night.
    """
    rng = np.random.default_rng(11)
    prompts = rng.lognormal(np.log(1500), 0.5, (2, requests)).clip(64, 8000).astype(int)
    answers = rng.lognormal(np.log(60), 0.6, (2, requests)).clip(2, 500).astype(int)
    prompts[1] = rng.lognormal(np.log(60), 0.6, requests).clip(8, 500).astype(int)
    answers[1] = rng.lognormal(np.log(1500), 0.5, requests).clip(64, 4096).astype(int)
    p, d = prompts.astype(np.float64), answers.astype(np.float64)
    compute = shape.request_flops(p, np.zeros_like(p), d) / device.flops
    memory = shape.request_kv_bytes(p, d) / device.read_bytes

    def density(heavy: int) -> float:
        sums = [x[0, : requests - heavy].sum() + x[1, :heavy].sum() for x in (compute, memory)]
        return float(sums[0] / sums[1])

    heavy = min(range(requests), key=lambda count: abs(density(count) - DENSITY))
    order = rng.permutation(requests)
    light = slice(0, requests - heavy), slice(0, heavy)
    found = (np.concatenate([x[0, light[0]], x[1, light[1]]])[order] for x in (prompts, answers))
    return next(found).tolist(), next(found).astype(np.int32)


def profiles(figures: dict[str, Any]) -> tuple[DeviceProfile, DeviceProfile]:
    """Return the device without overlap and with it, from what was measured.

    The rate of matrix products is that of a whole layer by its rows, the best one counting as 1; where it
    dips, more rows are taken to need as long as fewer.
    """
    rates = {int(n): by_kept["0"] for n, by_kept in figures["products_by_rows"].items()}
    rows, best = sorted(rates), max(rates.values())
    seconds = np.maximum.accumulate([n * best / rates[n] for n in rows])
    gemm = tuple((float(n), min(1.0, float(n / t))) for n, t in zip(rows, seconds, strict=True))
    flops, read = 1e12 * best, 1e9 * figures["read_gb_s"]
    peak = 1e12 * max(best, figures["matmul_tflops"])
    name = figures["device"]
    plain = DeviceProfile(name, "measured", flops, read, peak, read, overlaps=False, gemm=gemm)
    return plain, replace(plain, pair=tuple(map(tuple, figures["pair_surface"])), overlaps=True)


def predict(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Simulate the blend with the measured surface against the best tuned order without overlap."""
    shape = ModelShape.of(LLAMA_8B, 2)
    plain, beside = profiles(figures)
    if bench.dry:
        # Of a stand-in whose figures are those of the interpreter nothing follows.
        plain = NOMINAL["h200"]
        beside = replace(plain, pair=beside.pair, overlaps=True)
    gain, without, overlapping = predicted(shape, plain, beside, bench.size(4000, 300), bench.size(5, 1))
    best = min(without, key=without.__getitem__)
    rows = [
        Row(f"best without overlap: {best} (simulated)", without[best], "s"),
        *(Row(f"with overlap: {name} (simulated)", seconds, "s") for name, seconds in overlapping.items()),
        Row("predicted gain of the blend with overlap", gain, "x"),
    ]
    found = {"predicted_gain": gain, "worth_it": gain >= WORTH, "profile": asdict(beside)}
    print(f"  {verdict(gain)}")
    return {**found, "simulated_without": without, "simulated_overlapping": overlapping}, rows


def verdict(gain: float) -> str:
    """Return what follows from the predicted gain."""
    if gain >= WORTH:
        return f"go on: a gain of {gain:.2f}x is predicted, {WORTH}x and more is worth it"
    return f"stop here: a gain of {gain:.2f}x is predicted, under {WORTH}x it is not worth it"


def predicted(
    shape: ModelShape, plain: DeviceProfile, beside: DeviceProfile, requests: int, budgets: int
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return the gain of the blend with overlap, and the seconds of each order without and with it.

    Parameters
    ----------
    plain, beside
        The device without overlap and with it.
    requests, budgets
        Of the made-up night; how many of `BUDGETS` are tried.
    """
    prompts, output = made_up_night(requests, shape, plain)
    tokens, start = random_tokens(prompts, 100_000)
    orders = {
        order: make_plan(order, tokens, start, output.astype(np.float64), shape, plain, seed=1)
        for order in ("dfs", "blend")
    }

    def seconds(order: str, cost: StepCost, budget: int, *, paced: bool) -> float:
        settings = EngineSettings(400_000, 16, budget, min(512, budget), pacing=paced)
        return simulate(orders[order], tokens, start, output, settings, cost).seconds

    def tuned(*costs: StepCost) -> dict[str, float]:
        found = {}
        for order in orders:
            runs = {f"{order} {budget}": (budget, False) for budget in BUDGETS[-budgets:]}
            for name, (budget, paced) in (runs | {f"{order} paced": (BUDGETS[-1], True)}).items():
                found[name] = min(seconds(order, cost, budget, paced=paced) for cost in costs)
        return found

    whole = step_cost(shape, plain, overlap=False)
    # A step that gains nothing by being cut stays whole, so a night never takes longer than without overlap.
    halves = step_cost(shape, beside, overlap=True, nano_batches=2)
    without, overlapping = tuned(whole), tuned(whole, halves)
    ours = min(seconds for name, seconds in overlapping.items() if name.startswith("blend"))
    return min(without.values()) / ours, without, overlapping
