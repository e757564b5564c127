"""What running compute and memory work side by side gains on a GPU: the measurement the decision rests on.

    python -m tests.benchmarks.overlap          # on a GPU, within 8 minutes: results/overlap-<device>.json
    python -m tests.benchmarks.overlap --dry    # tiny, on the CPU: tries the command, measures nothing

Read rate by blocks, rate of matrix products by rows and by multiprocessors left out; then the pair of one
layer's products with a decode attention of equal length, by every strategy, launched and captured; then the
interference by the share of memory time, and what the simulator makes of it. Under 1.15x it is not worth it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cost import NOMINAL, DeviceProfile, ModelShape, step_cost
from engine.plan.policies import make_plan
from engine.runtime.core import EngineSettings
from engine.simulate import simulate
from tests.benchmarks import gpu, overlap_cascade, overlap_pair
from tests.benchmarks.gpu_engine import LLAMA_8B, random_tokens
from tests.benchmarks.gpu_ops import Bench, Row
from tests.benchmarks.gpu_ops import ceilings as measure_ceilings
from tests.benchmarks.gpu_worker import Part

if TYPE_CHECKING:
    from engine.cost import StepCost

WORTH = 1.15
"""Predicted gain under which the work stops."""
REQUIRED = ("read_by_blocks", "products_by_rows", "pair_ratio", "pair_surface", "predicted_gain",
            "cascade_speedup_16k_256_64", "cascade_min")  # fmt: skip
BUDGETS = (512, 1024, 2048, 4096, 8192)


def made_up_night(requests: int) -> tuple[list[int], np.ndarray]:
    """Return prompts and answers, half of them long to read and short to answer, half the other way round."""
    rng = np.random.default_rng(11)
    long = rng.lognormal(np.log(1500), 0.5, requests).clip(64, 8000).astype(int)
    short = rng.lognormal(np.log(60), 0.6, requests).clip(2, 500).astype(int)
    answers = rng.lognormal(np.log(1200), 0.6, requests).clip(64, 8000).astype(int)
    heavy = np.arange(requests) % 8 == 0
    return np.where(heavy, short, long).tolist(), np.where(heavy, answers, short).astype(np.int32)


def predict(bench: Bench, figures: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    """Simulate the blend with the measured surface against the best tuned order without overlap."""
    shape = ModelShape.of(LLAMA_8B, 2)
    flops, read = 1e12 * figures["matmul_tflops"], 1e9 * figures["read_gb_s"]
    plain = DeviceProfile(figures["device"], "measured", flops, read, flops, read, overlaps=False)
    if bench.dry:
        plain = NOMINAL["h200"]
    beside = replace(plain, pair=tuple(figures["pair_surface"]), overlaps=True)
    prompts, output = made_up_night(bench.size(3000, 80))
    tokens, start = random_tokens(prompts, 100_000)

    def seconds(order: str, cost: StepCost, budget: int, *, paced: bool) -> float:
        settings = EngineSettings(400_000, 16, budget, min(512, budget), pacing=paced)
        plan = make_plan(order, tokens, start, output.astype(np.float64), shape, plain, seed=1)
        return simulate(plan, tokens, start, output, settings, cost).seconds

    def tuned(device: DeviceProfile, *, overlap: bool) -> dict[str, float]:
        cost = step_cost(shape, device, overlap=overlap, nano_batches=2 if overlap else 1)
        found = {
            f"{order} {budget}": seconds(order, cost, budget, paced=False)
            for order in ("dfs", "blend")
            for budget in (BUDGETS if not bench.dry else BUDGETS[:1])
        }
        return found | {"blend paced": seconds("blend", cost, BUDGETS[-1], paced=True)}

    without, overlapping = tuned(plain, overlap=False), tuned(beside, overlap=True)
    best = min(without, key=without.__getitem__)
    gain = without[best] / overlapping["blend paced"]
    rows = [
        Row(f"best without overlap: {best} (simulated)", without[best], "s"),
        Row("blend with overlap (simulated)", overlapping["blend paced"], "s"),
        Row("predicted gain", gain, "x"),
    ]
    found = {"predicted_gain": gain, "worth_it": gain >= WORTH, "profile": asdict(beside)}
    return {**found, "simulated_without": without, "simulated_overlapping": overlapping}, rows


PARTS = [
    Part("ceilings", 45, measure_ceilings),
    Part("curves", 120, overlap_pair.curves),
    Part("pair", 120, overlap_pair.pair),
    # In a process of its own, and not on the critical path.
    Part("green contexts", 60, partial(overlap_pair.pair, green=True), alone=True),
    Part("surface", 90, overlap_pair.surface),
    Part("prediction", 120, predict),
    Part("cascade", 120, overlap_cascade.cascade),
]


if __name__ == "__main__":
    raise SystemExit(gpu.main("tests.benchmarks.overlap:PARTS", "overlap", REQUIRED, __doc__ or ""))
