"""Records what is replayed of overlap: four runs of each published trace, and one small enough to run.

    python -m tests.benchmarks.replay.record_traces --out FOLDER                 # 10 minutes on two cores
    python -m tests.benchmarks.replay.record_traces --out FOLDER --profile FILE  # for a measured device
    python -m tests.benchmarks.replay.record_traces --out FOLDER --quick         # a trial

It needs the traces and no GPU. Of every trace: the paced blend and depth-first at 2,048 tokens a step on a
device with overlap, and the best other order with overlap and the best one without. These are found on a
stratified sample, each order at every fixed budget and paced; the best few then run on all requests.

The small run is trace #1 with all lengths and the KV memory divided by 16 and the mix solved again. Its
prompts and answers are kept as well, so that `replay_traces.py` can run it from end to end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.cost.profiles import DeviceProfile, read_profile
from engine.cost.step import NOMINAL, StepCost, step_cost
from engine.plan.policies import make_plan
from tests.benchmarks.lib import sources, workloads
from tests.benchmarks.plan import cells
from tests.benchmarks.plan.orders import BASELINES, ORDERS
from tests.benchmarks.replay.steps import LEAST_STEPS, Recording, record

if TYPE_CHECKING:
    from tests.benchmarks.plan.cells import Run

ROLES = ("blend", "dfs_2048", "best_overlap", "best_serial")
ASSUMED = 0.2
"""Interference of a device whose surface was not measured."""
FEWER = 16
"""What lengths and KV memory of the small run are divided by."""
CONFIRMED = 8
"""Runs that are the best on the sample, and then are compared on all requests."""
DEVICE = "h200"


class Mix(cells.Bench):
    """A mix whose steps are cut into two nano-batches where the device overlaps."""

    def __init__(self, mix: cells.Mix, scratch: Path, device: DeviceProfile) -> None:
        super().__init__(mix, scratch)
        self.device = device

    def cost(self, interference: float | None) -> StepCost:
        """Return the modelled device: None is without overlap, any other number with it."""
        if interference is None:
            return step_cost(cells.SHAPE, self.device, overlap=False)
        assumed = None if self.device.pair else ASSUMED
        return step_cost(cells.SHAPE, self.device, overlap=True, interference=assumed, nano_batches=2)

    def best(self, orders: tuple[str, ...], interference: float | None, budgets: tuple[int, ...]) -> Run:
        """Return the best of these orders, each at every budget and paced."""
        runs = [
            cells.Run(order, budget, paced, interference)
            for order in orders
            for budget, paced in (*((b, False) for b in budgets), (cells.PACED_BUDGET, True))
        ]
        sample = min(cells.SAMPLE, self.mix.requests // 2)
        runs.sort(key=lambda run: self.cell(replace(run, sample=sample))["seconds"])
        return min(runs[:CONFIRMED], key=lambda run: self.cell(run)["seconds"])

    def runs(self, budgets: tuple[int, ...]) -> dict[str, Run]:
        """Return what is recorded, by its role."""
        return {
            "blend": cells.Run("blend", interference=ASSUMED),
            "dfs_2048": cells.Run("dfs", 2048, paced=False, interference=ASSUMED),
            "best_overlap": self.best(tuple(BASELINES), ASSUMED, budgets),
            "best_serial": self.best(tuple(ORDERS), None, budgets),
        }


def record_trace(trace: str, device: DeviceProfile, out: Path, requests: int, steps: int) -> list[str]:
    """Record the four runs of a trace; return a line about each."""
    begin, mix = time.perf_counter(), cells.Mix(DEVICE, *workloads.TRACES[trace], requests=requests)
    # Cells are kept for this code and this device: what was cut off goes on where it stopped.
    key = hashlib.sha256(f"{cells.code_digest()} {device}".encode()).hexdigest()[:16]
    bench = Mix(mix, out / "scratch" / key, device)
    budgets = cells.BUDGETS if requests >= workloads.REQUESTS else (2048, 8192)
    lines = []
    for role, run in bench.runs(budgets).items():
        about = {"cell": f"{trace} {role}", "trace": trace, "role": role, "run": run.key}
        about |= {"modelled_device": device.name, "model": "Llama-3.1-8B shape"}
        whole, cost = bench.whole, bench.cost(run.interference)
        given = (bench.plan(run), whole.tokens, whole.start, whole.output, bench.settings(run))
        found = record(about, *given, cost, steps)
        found.save(out / f"{trace.strip('#')}-{role}.npz")
        lines.append(_line(found, begin))
        print(lines[-1], flush=True)
    return lines


def small_run(device: DeviceProfile, out: Path, requests: int, steps: int) -> str:
    """Record the small run, with its prompts and answers."""
    begin = time.perf_counter()
    density, sharing = workloads.TRACES["#1"]
    mix = small_mix(density, sharing, requests // 12)
    settings = cells.EngineSettings(
        kv_tokens=cells.kv_tokens(DEVICE) // FEWER,
        page_size=cells.PAGE_SIZE,
        token_budget=cells.PACED_BUDGET,
        max_sequences=cells.SLOTS,
        pacing=True,
    )
    cost = step_cost(cells.SHAPE, device, overlap=True, interference=ASSUMED, nano_batches=2)
    lengths = mix.output.astype(np.float64)
    plan = make_plan("blend", mix.tokens, mix.start, lengths, cells.SHAPE, device, seed=1)
    about = {"cell": "small run", "role": "small", "model": "Llama-3.1-8B shape", "density": mix.density}
    about |= {"sharing": mix.hit_rate, "fewer": FEWER, "modelled_device": device.name, "pacing": True}
    about |= {"profile": asdict(device), "interference": ASSUMED}
    found = record(about, plan, mix.tokens, mix.start, mix.output, settings, cost, steps)
    found.save(out / "small.npz")
    np.savez_compressed(out / "small-requests.npz", tokens=mix.tokens, start=mix.start, output=mix.output)
    line = _line(found, begin)
    print(line, flush=True)
    return line


def small_mix(density: float, sharing: float, requests: int) -> workloads.Workload:
    """Return the recipe's mix of requests that are `FEWER` times as short, solved again."""
    most, device = 2 * requests + 2_000, NOMINAL[DEVICE]
    lengths = workloads.BASES["azure"]
    long = [sources.length_source(name, file, most, 1 + i) for i, (name, file) in enumerate(lengths)]
    long += [sources.video_source(most, 12), sources.mmlu_source(most, 13)]
    parts = [shorter(source) for source in long]
    sums = [workloads._Sums.of(source, cells.SHAPE, device) for source in parts]
    rest, videos, questions = workloads.solve(sums[:-2], sums[-2], sums[-1], requests, density, sharing)
    counts = [*workloads.split(rest, len(lengths)), videos, questions]
    return workloads.assemble("small", parts, counts, sums, seed=1)


def shorter(source: sources.Source) -> sources.Source:
    """Return a source with the beginnings of its prompts, and shorter answers."""
    own = np.maximum((source.prompt - sources.SYSTEM_TOKENS) // FEWER, 1)
    prompt, text = own + sources.SYSTEM_TOKENS, source.text
    if text is not None:
        text = [ids[:count] for ids, count in zip(text, own.tolist(), strict=False)]
    shared = np.minimum(source.shared, prompt - 1)
    return replace(
        source, prompt=prompt, output=np.maximum(source.output // FEWER, 1), shared=shared, text=text
    )


def _line(found: Recording, begin: float) -> str:
    about = found.about
    return (
        f"{about['cell']:18}{about.get('run', ''):34}{len(found.steps):5} of {about['steps']} steps   "
        f"{about['simulated_seconds']:9.1f} s simulated   after {time.perf_counter() - begin:.0f} s"
    )


def main() -> int:
    """Record everything that is asked for, traces beside each other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--trace", action="append", choices=[*workloads.TRACES, "small"])
    parser.add_argument("--profile", type=Path, help="a measured device; by default a nominal H200")
    parser.add_argument("--steps", type=int, default=LEAST_STEPS, help="steps to choose of each run")
    parser.add_argument("--quick", action="store_true", help="few requests, two budgets: a trial")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = read_profile(arguments.profile) if arguments.profile else NOMINAL[DEVICE]
    requests = 1000 if arguments.quick else workloads.REQUESTS
    given = (device, arguments.out, requests, arguments.steps)
    chosen = arguments.trace or [*workloads.TRACES, "small"]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        jobs = [
            pool.submit(small_run, *given) if trace == "small" else pool.submit(record_trace, trace, *given)
            for trace in chosen
        ]
        lines = [job.result() for job in jobs]
    (arguments.out / "about.json").write_text(json.dumps({"recorded": lines}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
