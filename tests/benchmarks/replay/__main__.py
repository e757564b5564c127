"""What a whole trace takes on a device, from a sample of its steps: the real kernels on the recorded steps.

    python -m tests.benchmarks.replay record --trace '#1' --order blend --out blend.npz    # anywhere
    python -m tests.benchmarks.replay run blend.npz dfs.npz     # on a GPU: results/replay-<device>.json
    python -m tests.benchmarks.replay dry                       # tiny, on the CPU: measures nothing

`record` runs the trace through the scheduler in the simulator (`steps.py`). `run` computes the chosen steps
and adds up (`run.py`).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
from pathlib import Path
from typing import Any

import torch

from engine.cost.step import ModelShape
from tests.benchmarks.gpu.bench import Bench
from tests.benchmarks.gpu.engine import MODELS
from tests.benchmarks.lib.places import RESULTS
from tests.benchmarks.replay.run import decoder_for, dry, print_cell, replay, runner_for
from tests.benchmarks.replay.steps import LEAST_STEPS, Recording, record
from tests.benchmarks.replay.strategy import CHOICES, measured, overlap_of


def record_trace(arguments: argparse.Namespace) -> Recording:
    """Record one cell of the planner's benchmark: a published trace on a nominal device."""
    # Where steps are only replayed, the packages that read traces are not installed.
    from tests.benchmarks.lib import workloads
    from tests.benchmarks.plan import cells

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
