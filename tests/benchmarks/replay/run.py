"""What a whole trace takes on a device, from a sample of its steps: the real kernels on the recorded steps.

    python -m tests.benchmarks.replay record --trace '#1' --order blend --out blend.npz    # anywhere
    python -m tests.benchmarks.replay run blend.npz dfs.npz     # on a GPU: results/replay-<device>.json
    python -m tests.benchmarks.replay dry                       # tiny, on the CPU: measures nothing

`record` runs the trace through the scheduler in the simulator (`replay_steps.py`). `run` computes each chosen
step with the runner of the engine: random weights and tokens, block tables of the true lengths with pages in
random order. Pages that requests share in the run are apart here, as far as the memory goes. The makespan is
the sum over all strata of the mean of the measured steps times the number of steps: it is *replayed*, and its
sampling error is the usual one of stratified samples (Cochran, "Sampling Techniques", 1977, 5.3).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.models.decoder import Decoder
from engine.plan.policies import make_plan
from engine.runtime import state
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.cpu.runner import LogprobWish
from engine.runtime.device.runner import DeviceRunner
from engine.runtime.sample.sampling import Sampling
from tests.benchmarks.gpu_engine import LLAMA_8B, MODELS, TINY, random_tokens, random_weights
from tests.benchmarks.gpu_ops import Bench
from tests.benchmarks.replay_steps import LEAST_STEPS, Recording, record
from tests.benchmarks.replay_strategy import CHOICES, measured, overlap_of

if TYPE_CHECKING:
    from engine.models.config import ModelConfig
    from engine.runtime.cpu.runner import Runner
    from engine.runtime.device.overlap import Overlap
    from tests.benchmarks.replay_steps import Int32, Int64

RESULTS = Path(__file__).parent / "results"
_NO_WISH = LogprobWish(np.zeros(0, np.int64), 0)


class Replayer:
    """Computes recorded steps on a runner whose KV memory and sizes are those of the recording."""

    def __init__(self, runner: Runner, recording: Recording, seed: int = 0) -> None:
        about = recording.about
        self._runner, self._recording = runner, recording
        self._page, self._pages = int(about["page_size"]), int(about["kv_tokens"]) // int(about["page_size"])
        width = -(-int(about["longest"]) // self._page) + 1
        self._work = state.make_work(int(about["token_budget"]), int(about["max_sequences"]))
        self._slots = state.make_slots(int(about["max_sequences"]), width, 1)
        self._rng = np.random.default_rng(seed)
        runner.begin([Sampling(max_tokens=1)], self._slots)

    def load(self, index: int) -> state.Work:
        """Make step `index` of the recording: its rows, its contexts, and pages in random order."""
        kept = self._recording
        rows = kept.sequences[kept.start[index] : kept.start[index + 1]]
        work, slots, n = self._work, self._slots, len(rows)
        length, context, sampled = rows.T
        work.size[:] = 0
        work.first[:n] = np.cumsum(length) - length
        work.length[:n], work.context[:n], work.slot[:n] = length, context, np.arange(n)
        slots.counts[state.RUNNING], slots.running[:n] = n, np.arange(n)
        order, begin, row = self._rng.permutation(self._pages), 0, 0
        for i in range(n):
            count = -(-int(context[i]) // self._page)
            slots.n_pages[i] = count
            # More than there are only if requests share pages: then some are used twice.
            slots.pages[i, :count] = order[(begin + np.arange(count)) % self._pages]
            begin += count
            position = np.arange(context[i] - length[i], context[i])
            inside = slice(row, row + int(length[i]))
            work.positions[inside], work.slots[inside] = position, position % self._page
            work.pages[inside] = slots.pages[i, position // self._page]
            row += int(length[i])
        work.tokens[:row] = self._rng.integers(0, self._runner.decoder.config.vocab_size, row)
        chosen = np.flatnonzero(sampled)
        work.sample_rows[: len(chosen)] = work.first[chosen] + work.length[chosen] - 1
        work.sample_slots[: len(chosen)] = chosen
        decoding = int(kept.decoding[index])
        prefill, before = length[decoding:].astype(np.int64), (context - length)[decoding:].astype(np.int64)
        work.size[state.W_TOKENS], work.size[state.W_SEQUENCES] = row, n
        work.size[state.W_SAMPLES] = len(chosen)
        work.size[state.W_KV_READ] = context.sum()
        work.size[state.W_KV_DECODE] = context[:decoding].sum()
        work.size[state.W_ATTENDED] = (prefill * before + prefill * (prefill + 1) // 2).sum()
        return work

    def seconds(self, index: int, repeats: int) -> float:
        """Return the time of a step, with the host as many steps ahead as in a run."""
        work = self.load(index)
        requests = np.zeros(int(work.size[state.W_SAMPLES]), np.int64)

        def run(times: int) -> None:
            flying = deque()
            for _ in range(times):
                flying.append(self._runner.launch(work, self._slots, requests, _NO_WISH))
                if len(flying) > self._runner.lag:
                    flying.popleft().wait()
            while flying:
                flying.popleft().wait()

        # The first one sends the block tables, which a run does bit by bit.
        run(1)
        begin = time.perf_counter()
        run(repeats)
        return (time.perf_counter() - begin) / repeats


def makespan(recording: Recording, seconds: np.ndarray) -> tuple[float, float]:
    """Return the estimated sum over all steps of the run, and the standard error of it, in seconds.

    `seconds` float64 [k] are those of the recorded steps.
    """
    total = variance = 0.0
    for h, population in enumerate(recording.population.tolist()):
        mine = seconds[recording.stratum == h]
        n = len(mine)
        if n == 0:
            continue
        total += population * float(mine.mean())
        if 1 < n < population:
            variance += population**2 * (1 - n / population) * float(mine.var(ddof=1)) / n
    return total, variance**0.5


def replay(runner: Runner, recording: Recording, repeats: int) -> dict[str, Any]:
    """Compute all recorded steps, the largest first, and return the figures of the cell."""
    replayer, seconds = Replayer(runner, recording), np.zeros(len(recording.steps))
    rows = np.add.reduceat(recording.sequences[:, 0], recording.start[:-1])
    for i in np.argsort(-rows, kind="stable").tolist():
        # Graphs that are captured as they are needed then fit into the memory of earlier ones.
        seconds[i] = replayer.seconds(i, repeats)
    total, error = makespan(recording, seconds)
    ratio = seconds / recording.modelled
    return {
        **recording.about,
        "label": "replayed",
        "replayed_steps": len(seconds),
        "seconds": total,
        "standard_error": error,
        "tokens_per_second": recording.about["tokens"] / total,
        "step_over_model_p5_p50_p95": np.quantile(ratio, (0.05, 0.5, 0.95)).tolist(),
    }


def decoder_for(config: ModelConfig, bench: Bench) -> Decoder:
    """Return a decoder with random weights."""
    return Decoder(config, random_weights(config, bench))


def runner_for(recording: Recording, decoder: Decoder, overlap: Overlap | None = None) -> DeviceRunner:
    """Return a runner with the recording's sizes, which captures the graphs that its steps need."""
    about = recording.about
    sizes = (about[name] for name in ("kv_tokens", "page_size", "token_budget", "max_sequences", "longest"))
    runner = DeviceRunner(decoder, *map(int, sizes), overlap=overlap)
    runner.capture(lazily=True)
    return runner


def record_trace(arguments: argparse.Namespace) -> Recording:
    """Record one cell of the planner's benchmark: a published trace on a nominal device."""
    # The modules of that benchmark call each other by their own names.
    sys.path.append(str(Path(__file__).parent))
    import cells
    import workloads

    density, sharing = workloads.TRACES[arguments.trace]
    mix = cells.Mix(arguments.device, density, sharing, requests=arguments.requests)
    run = cells.Run(arguments.order, arguments.budget, arguments.paced, None if arguments.serial else 0.0)
    bench = cells.Bench(mix, RESULTS)
    whole = bench.whole
    about = {
        "cell": f"{arguments.trace} {run.key}",
        "trace": arguments.trace,
        "order": arguments.order,
        "budget": arguments.budget,
        "paced": arguments.paced,
        "modelled_device": arguments.device,
        "model": "Llama-3.1-8B shape",
        "serial": arguments.serial,
    }
    given = (bench.plan(run), whole.tokens, whole.start, whole.output, bench.settings(run))
    return record(about, *given, bench.cost(run.interference), arguments.steps)


def tiny_night(bench: Bench, requests: int = 80) -> tuple[ModelConfig, ModelShape, Int32, Int64, Int32]:
    """Return a tiny model, its shape, and prompts and answer lengths for it."""
    config = replace(LLAMA_8B, **TINY, head_dim=16, windows=(None,))
    rng = np.random.default_rng(5)
    prompts = rng.integers(4, 60, requests).tolist()
    output = rng.integers(2, 40, requests).astype(np.int32)
    tokens, start = random_tokens(prompts, config.vocab_size)
    return config, ModelShape.of(config, bench.dtype.itemsize), tokens, start, output


def dry(steps: int = LEAST_STEPS, requests: int = 80) -> dict[str, Any]:
    """Record and replay a tiny run on the CPU with the reference operations; run it from end to end too."""
    bench = Bench(torch.device("cpu"), torch.float32, dry=True)
    config, shape, tokens, start, output = tiny_night(bench, requests)
    settings = EngineSettings(kv_tokens=640, page_size=16, token_budget=32, max_sequences=8)
    plan = make_plan("blend", tokens, start, output.astype(np.float64), shape, NOMINAL["cpu"], seed=1)
    cost = step_cost(shape, NOMINAL["cpu"])
    recording = record({"cell": "dry", "order": "blend"}, plan, tokens, start, output, settings, cost, steps)
    runner = runner_for(recording, decoder_for(config, bench))
    found = replay(runner, recording, repeats=1)
    sampling = [Sampling(max_tokens=int(n), ignore_eos=True) for n in output]
    engine = Engine(runner, None, settings, tokens, start, sampling, plan, cost)
    begin = time.perf_counter()
    for _ in engine.run():
        pass
    return {**found, "end_to_end_seconds": time.perf_counter() - begin}


def print_cell(found: dict[str, Any]) -> None:
    """Print the figures of one cell."""
    error = 100 * found["standard_error"] / found["seconds"]
    print(
        f"{found['cell']:40}{found['replayed_steps']:6} of {found['steps']} steps   "
        f"{found['seconds']:10.1f} s +- {error:.2f} % (replayed)   "
        f"{found['simulated_seconds']:10.1f} s (simulated)"
    )


def run_cells(arguments: argparse.Namespace) -> int:
    """Replay recordings on the GPU and write the results after each."""
    if not torch.cuda.is_available():
        print("unmeasured: no GPU")
        return 1
    name = torch.cuda.get_device_name()
    bench = Bench(torch.device("cuda"), torch.bfloat16, dry=False)
    target = arguments.out / f"replay-{'-'.join(name.lower().split())}.json"
    cells: dict[str, Any] = json.loads(target.read_text())["cells"] if target.exists() else {}
    about = {
        "label": "replayed",
        "device": name,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    for path in arguments.recordings:
        recording = Recording.load(path)
        config = MODELS[recording.about["model"]]
        overlap = None
        if arguments.strategy != "none":
            shape, figures = ModelShape.of(config, bench.dtype.itemsize), measured(arguments.out, name)
            overlap = overlap_of(figures, shape, arguments.strategy, arguments.k)
        runner = runner_for(recording, decoder_for(config, bench), overlap)
        found = replay(runner, recording, repeats=3) | {"strategy": arguments.strategy}
        del runner
        torch.cuda.empty_cache()
        suffix = "" if overlap is None else f" {arguments.strategy}"
        cells[found["cell"] + suffix] = found
        print_cell(found)
        target.write_text(json.dumps({**about, "cells": cells}, indent=2) + "\n")
    print(f"wrote {target}")
    return 0


def main() -> int:
    """Record, replay, or try both on the CPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="choose and record steps of a trace")
    recorder.add_argument("--trace", default="#1", help="#1 to #4")
    recorder.add_argument(
        "--order", default="blend", help="fcfs, random, dfs, prefill_first, interleave, blend"
    )
    recorder.add_argument("--budget", type=int, default=8192, help="most tokens of a step")
    recorder.add_argument("--paced", action=argparse.BooleanOptionalAction, default=True)
    recorder.add_argument("--serial", action="store_true", help="pace for a device without overlap")
    recorder.add_argument("--device", default="h200", help="a nominal device")
    recorder.add_argument("--requests", type=int, default=30_000)
    recorder.add_argument("--steps", type=int, default=LEAST_STEPS, help="steps to choose")
    recorder.add_argument("--out", type=Path, required=True)
    runner = commands.add_parser("run", help="replay recordings on a GPU")
    runner.add_argument("recordings", type=Path, nargs="+")
    runner.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    runner.add_argument("--strategy", choices=CHOICES, default="none", help="how cut steps run")
    runner.add_argument("--k", type=int, help="blocks of attention; by default as was measured")
    commands.add_parser("dry", help="tiny, on the CPU")
    arguments = parser.parse_args()
    if arguments.command == "run":
        return run_cells(arguments)
    if arguments.command == "record":
        recording = record_trace(arguments)
        recording.save(arguments.out)
        print(f"{recording.about['cell']}: {len(recording.steps)} of {recording.about['steps']} steps")
        return 0
    found = dry()
    print_cell(found)
    print(f"from end to end {found['end_to_end_seconds']:.1f} s, with the host's part of every step")
    print("unmeasured: no GPU")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
