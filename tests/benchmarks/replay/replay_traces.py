"""What the blend gains with overlap on whole traces, replayed on a GPU, and whether replays are true.

    python -m tests.benchmarks.replay.replay_traces FOLDER                # on a GPU, after `overlap`: 15 min
    python -m tests.benchmarks.replay.replay_traces FOLDER --trace '#1'   # one of the traces: 3 minutes
    python -m tests.benchmarks.replay.replay_traces FOLDER --trace small  # the validation: 3 minutes
    python -m tests.benchmarks.replay.replay_traces --dry                 # tiny, on the CPU: measures nothing

`record_traces.py` makes the recordings beforehand, anywhere. Each cell is replayed with the strategy that
won the pair (or `--strategy`, `--k`), the best order without overlap with none. A cell takes about 45 s
(memory is filled, the graphs of its steps are captured, 200 steps and more are computed three times); all
minutes are estimates. The small run is replayed, and truly run from its prompts on the same runner: once so
that every graph is there, then measured. Everything is added to `results/overlap-<device>.json`, after every
cell; nothing is replayed twice unless `--again` is given.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.cost.profiles import DeviceProfile
from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.plan.policies import make_plan
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.sample.settings import Sampling
from tests.benchmarks.gpu.bench import Bench, Row
from tests.benchmarks.gpu.engine import MODELS
from tests.benchmarks.gpu.report import Report, results_file, write
from tests.benchmarks.lib.places import RESULTS
from tests.benchmarks.overlap.gain import verdict
from tests.benchmarks.overlap.parts import REQUIRED
from tests.benchmarks.replay.run import decoder_for, print_cell, replay, runner_for, tiny_night
from tests.benchmarks.replay.steps import Recording, record
from tests.benchmarks.replay.strategy import CHOICES, overlap_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.models.config import ModelConfig
    from engine.models.decoder import Decoder
    from engine.runtime.device.overlap import Overlap
    from engine.runtime.state.runner import Runner
    from tests.benchmarks.replay.steps import Int32, Int64

TRACES = ("#1", "#2", "#3", "#4")
AGAINST = {
    "replay_vs_dfs_2048_overlap": "dfs_2048",
    "replay_vs_best_no_overlap": "best_serial",
    "replay_vs_best_overlap": "best_overlap",
}
"""Figure -> role of the run that the blend is compared with."""
REPLAYED = (*AGAINST, "replay_validation_error")
TRUE_WITHIN = 0.03
"""The most that a replay may be off from its run."""
PART = "replay"


def ratios(cells: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what the blend gains over each other run, for each trace that has both, and on average."""
    seconds = {(cell["trace"], cell["role"]): cell["seconds"] for cell in cells.values() if "trace" in cell}
    found: dict[str, dict[str, float]] = {}
    for figure, role in AGAINST.items():
        gains = {
            trace: seconds[trace, role] / seconds[trace, "blend"]
            for trace in TRACES
            if (trace, role) in seconds and (trace, "blend") in seconds
        }
        if gains:
            found[figure] = {**gains, "mean": float(np.mean(list(gains.values())))}
    return found


def run_truly(
    runner: Runner, recording: Recording, tokens: Int32, start: Int64, output: Int32, profile: DeviceProfile
) -> tuple[float, int]:
    """Answer the small run's requests with the engine; return the seconds and the number of steps."""
    about, shape = recording.about, ModelShape.of(runner.decoder.config, _element_bytes(runner))
    settings = EngineSettings(
        *(int(about[name]) for name in ("kv_tokens", "page_size", "token_budget", "max_sequences")),
        pacing=bool(about.get("pacing", False)),
    )
    plan = make_plan("blend", tokens, start, output.astype(np.float64), shape, profile, seed=1)
    sampling = [Sampling(max_tokens=int(n), ignore_eos=True) for n in output]
    cost = step_cost(shape, profile, overlap=True, interference=about.get("interference"), nano_batches=2)
    engine = Engine(runner, None, settings, tokens, start, sampling, plan, cost)
    begin = time.perf_counter()
    steps = sum(step.tokens > 0 for _, step in engine.run())
    engine.drain()
    return time.perf_counter() - begin, steps


def _element_bytes(runner: Runner) -> int:
    return int(runner.decoder.weights.embed.element_size())


def validate(
    runner: Runner, recording: Recording, requests: tuple[Int32, Int64, Int32], profile: DeviceProfile
) -> dict[str, Any]:
    """Replay the small run, run it, and return how far apart they are."""
    # The first run captures what it needs.
    run_truly(runner, recording, *requests, profile)
    replayed = replay(runner, recording, repeats=2)
    seconds, steps = run_truly(runner, recording, *requests, profile)
    error = replayed["seconds"] / seconds - 1.0
    print_cell(replayed)
    print(f"{'':40}{steps:6} steps   {seconds:10.1f} s (measured)   replay off by {error:+.2%}")
    return {
        "replay_validation_error": abs(error),
        "replay_validation": {
            **replayed,
            "measured_seconds": seconds,
            "measured_steps": steps,
            "error": error,
            "within": TRUE_WITHIN,
        },
    }


class Suite:
    """Replays recordings on one device and keeps what comes out."""

    def __init__(
        self, bench: Bench, report: Report, models: dict[str, ModelConfig], name: str | None, k: int | None
    ) -> None:
        self._bench, self._report, self._models = bench, report, models
        self._name, self._k = name, k
        self._decoder: Decoder | None = None

    def decoder(self, model: str) -> Decoder:
        """Return the decoder with random weights, the same for all cells."""
        if self._decoder is None:
            self._decoder = decoder_for(self._models[model], self._bench)
        return self._decoder

    def overlap(self, model: str) -> Overlap | None:
        """Return how steps are cut, by what was measured on this device."""
        shape = ModelShape.of(self._models[model], self._bench.dtype.itemsize)
        found = overlap_of(self._report.figures, shape, self._name, self._k)
        if found is None or not self._bench.dry:
            return found
        # A tiny model gains nothing anywhere.
        return found._replace(split=found.split._replace(least_gain=-1.0))

    def cell(self, recording: Recording) -> None:
        """Replay one run of a trace."""
        about, model = recording.about, recording.about["model"]
        how = None if about["role"] == "best_serial" else self.overlap(model)
        runner = runner_for(recording, self.decoder(model), how)
        found = replay(runner, recording, repeats=2)
        found["strategy"] = "none" if how is None else how.strategy.name
        found["k"] = [] if how is None else list(how.strategy.kept)
        del runner
        release()
        print_cell(found)
        cells = self._report.figures.setdefault("replay_cells", {})
        cells[found["cell"]] = found
        self._report.figures |= ratios(cells)

    def small(self, recording: Recording, requests: tuple[Int32, Int64, Int32]) -> None:
        """Replay the small run and run it."""
        model = recording.about["model"]
        runner = runner_for(recording, self.decoder(model), self.overlap(model))
        profile = DeviceProfile(**recording.about["profile"])
        self._report.figures |= validate(runner, recording, requests, profile)
        release()


def release() -> None:
    """Give the memory of the last runner back: the next one takes nearly all of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rows_of(figures: dict[str, Any]) -> list[Row]:
    """Return the lines of the table."""
    rows = [
        Row(f"{figure}: {trace} (replayed)", gain, "x")
        for figure in AGAINST
        for trace, gain in figures.get(figure, {}).items()
    ]
    if "replay_validation_error" in figures:
        rows.append(Row("replay off from its run", 100 * figures["replay_validation_error"], "%"))
    return rows


def dry() -> int:
    """Go through everything with a tiny model on the CPU, with made-up measurements of the pair."""
    bench = Bench(torch.device("cpu"), torch.float32, dry=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        config = record_tiny(bench, out)
        arguments = argparse.Namespace(
            recordings=out, out=out, trace=None, strategy=None, k=None, again=False, anyway=True
        )
        code = run(arguments, bench, "cpu", {"tiny": config})
        written = json.loads(results_file(out, "cpu", "overlap").read_text())
    missing = [name for name in written["missing"] if name in REPLAYED]
    if missing:
        print("missing:", ", ".join(missing))
    print("unmeasured: no GPU")
    # How far a replay is off means nothing here.
    return 1 if missing or code > 1 else 0


def record_tiny(bench: Bench, out: Path) -> ModelConfig:
    """Write recordings of a tiny night, and made-up figures of the pair."""
    config, shape, tokens, start, output = tiny_night(bench, requests=12)
    output, profile = output // 4 + 1, NOMINAL["cpu"]
    roles = {"blend": "blend", "dfs_2048": "dfs", "best_overlap": "interleave", "best_serial": "dfs"}
    for role, order in (roles | {"small": "blend"}).items():
        settings = EngineSettings(kv_tokens=640, page_size=16, token_budget=32, max_sequences=8)
        serial, name = role == "best_serial", f"dry {role}"
        cost = step_cost(shape, profile, overlap=not serial, nano_batches=1 if serial else 2)
        about = {"cell": name, "role": role, "model": "tiny", "profile": vars(profile)}
        about |= {} if role == "small" else {"trace": "#1"}
        plan = make_plan(order, tokens, start, output.astype(np.float64), shape, profile, seed=1)
        record(about, plan, tokens, start, output, settings, cost, 12).save(out / f"{role}.npz")
    np.savez_compressed(out / "small-requests.npz", tokens=tokens, start=start, output=output)
    report = Report(REQUIRED)
    report.figures = {
        "device": "cpu",
        "pair_ratios": {"streams": 0.9, "k-limited and carveout 16, captured": 0.7},
        "pair_strategy": "k-limited and carveout 16, captured",
        "surface_by_k": {"16": [[0.2, 0.1], [0.8, 0.4]], "32": [[0.2, 0.3], [0.8, 0.2]]},
        "pair_surface": [[0.2, 0.1], [0.8, 0.2]],
        "profile": vars(profile),
        "worth_it": False,
    }
    write(report, out, 0.0, "overlap")
    return config


def run(arguments: argparse.Namespace, bench: Bench, name: str, models: dict[str, ModelConfig]) -> int:
    """Replay what is asked for on the device of this name; write the results after each cell."""
    begin = time.monotonic()
    path, report = results_file(arguments.out, name, "overlap"), Report((*REQUIRED, *REPLAYED))
    if not path.exists():
        print(f"{path} is missing: run `python -m tests.benchmarks.overlap` first")
        return 2
    report.load(path)
    if not report.figures.get("worth_it") and not arguments.anyway:
        print(verdict(report.figures.get("predicted_gain", 0.0)) + " (--anyway replays all the same)")
        return 3
    suite = Suite(bench, report, models, arguments.strategy, arguments.k)

    def keep() -> None:
        rows = [row._asdict() | {"part": PART} for row in rows_of(report.figures)]
        report.rows = [row for row in report.rows if row["part"] != PART] + rows
        report.seconds[PART] = time.monotonic() - begin
        write(report, arguments.out, sum(report.seconds.values()), "overlap")

    for work in plan_of_work(arguments, suite):
        work()
        keep()
    keep()
    for row in rows_of(report.figures):
        print(f"  {row}")
    print(f"wrote {path}")
    error = report.figures.get("replay_validation_error", 0.0)
    return 0 if error <= TRUE_WITHIN else 1


def plan_of_work(arguments: argparse.Namespace, suite: Suite) -> list[Callable[[], None]]:
    """Return what is to be done: cells that are not there yet, and the small run."""
    held, works = suite._report.figures.get("replay_cells", {}), []
    for path in sorted(arguments.recordings.glob("*.npz")):
        if path.stem == "small-requests":
            continue
        recording = Recording.load(path)
        trace = recording.about.get("trace", "small")
        if arguments.trace and trace not in arguments.trace:
            continue
        if trace == "small":
            with np.load(path.with_name("small-requests.npz"), allow_pickle=False) as kept:
                requests = kept["tokens"], kept["start"], kept["output"]
            works.append(lambda recording=recording, requests=requests: suite.small(recording, requests))
        elif arguments.again or recording.about["cell"] not in held:
            works.append(lambda recording=recording: suite.cell(recording))
    return works


def main() -> int:
    """Replay on the GPU, or go through it on the CPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recordings", type=Path, nargs="?", help="folder that `record_traces` has filled")
    parser.add_argument("--trace", action="append", choices=[*TRACES, "small"])
    parser.add_argument("--strategy", choices=CHOICES, help="by default the best one of the pair")
    parser.add_argument("--k", type=int, help="blocks of attention; by default as was measured")
    parser.add_argument("--again", action="store_true", help="replay also what is in the results already")
    parser.add_argument("--anyway", action="store_true", help="even if too little gain is predicted")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    arguments = parser.parse_args()
    if arguments.dry:
        return dry()
    if arguments.recordings is None:
        parser.error("name the folder of the recordings")
    if not torch.cuda.is_available():
        print("unmeasured: no GPU")
        return 1
    bench = Bench(torch.device("cuda"), torch.bfloat16, dry=False)
    return run(arguments, bench, torch.cuda.get_device_name(), MODELS)


if __name__ == "__main__":
    raise SystemExit(main())
