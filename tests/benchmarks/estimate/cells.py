"""One cell of the estimate's benchmark: a trace, a model and a machine, and what is estimated of it.

Cells are kept in a folder named after a digest of the code they depend on, so that a run that was cut off
goes on where it stopped.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.estimate.machine import choose_devices, choose_model, make_machine
from tasks.estimate.read import Source, read_requests
from tasks.estimate.report import Question, estimate_machine
from tasks.estimate.requests import Requests
from tests.benchmarks.estimate.published import run_published
from tests.benchmarks.lib import digest, workloads
from tests.benchmarks.lib.sources import traces

BASE = "llama-3.1-8b", "a100"
"""What the mix with videos is solved for, on whatever it is run."""
REQUESTS = 20_000
PUBLISHED_REQUESTS = 100_000
LARGE = 400_000
MACHINES = {
    "llama-3.1-8b": ("a100", "h100", "h200"),
    "llama-3.1-70b": ("4xa100", "4xh100", "2xh200"),
}
FILES = {
    "azure code": ("AzureLLMInferenceTrace_code.csv",),
    "azure conversation": ("AzureLLMInferenceTrace_conv.csv",),
    "azure both": ("AzureLLMInferenceTrace_code.csv", "AzureLLMInferenceTrace_conv.csv"),
    "sharegpt": ("sharegpt_lengths.csv",),
    "mooncake": ("mooncake_conversation_trace.jsonl",),
}
VIDEOS = "azure, mmlu and videos"
TRACES = (*FILES, VIDEOS)
READING = tuple(f"tasks/{room}" for room in ("extract", "requests", "runlog", "store", "warehouse"))
"""Rooms that read the logs of a user; they give the same requests for a trace however they are written."""


@dataclass(frozen=True)
class Cell:
    """One piece of work: a section, requests, a model and a machine."""

    section: str
    trace: str
    model: str
    machine: str
    requests: int

    @property
    def key(self) -> str:
        """A name that is a file name as well."""
        text = f"{self.section}-{self.trace}-{self.model}-{self.machine}-{self.requests}"
        return text.replace(" ", "_").replace(",", "").replace("#", "no")


def code_digest() -> str:
    """Return a digest of the code that a cell's figures depend on."""
    return digest.code_digest("tests/benchmarks/estimate/cells.py", READING)


@functools.lru_cache(maxsize=1)
def requests_of(trace: str, count: int, model: str, machine: str) -> tuple[Requests, float]:
    """Return the requests of a trace, at most `count`, and the seconds it took to read them.

    Mixes are solved for their density on such a model and machine.
    """
    begin = time.perf_counter()
    if trace == VIDEOS or trace.startswith("#"):
        density, sharing = workloads.TRACES["#2" if trace == VIDEOS else trace]
        device = choose_devices(machine)[0]
        shape = choose_model(model).shape(device)
        mix = workloads.recipe(density, sharing, shape, device, count)
        found = Requests(
            trace,
            mix.tokens,
            mix.start,
            mix.output,
            mix.workload.astype(np.int64),
            mix.workloads,
            np.arange(mix.requests),
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name in FILES[trace]:
                (Path(folder) / name).write_bytes((traces() / name).read_bytes())
            source = folder if len(FILES[trace]) > 1 else str(Path(folder) / FILES[trace][0])
            found = read_requests(Source(source), choose_model("llama-3.1-8b"), Path(folder) / "scratch")
        found = found.sample(count)
    return found, time.perf_counter() - begin


def machine_of(cell: Cell, requests: Requests) -> Any:
    """Return the machine of a cell."""
    longest = int((np.diff(requests.start) + requests.output).max())
    return make_machine(choose_model(cell.model), choose_devices(cell.machine)[0], longest=longest)


def run_cell(cell: Cell, scratch: Path) -> tuple[Cell, dict[str, Any]]:
    """Return a cell's figures, from the folder if they are there."""
    file = scratch / f"{cell.key}.json"
    if not file.exists():
        solved_for = (cell.model, cell.machine) if cell.section == "published" else BASE
        requests, reading = requests_of(cell.trace, cell.requests, *solved_for)
        begin, cpu = time.perf_counter(), time.process_time()
        figures = RUNNERS[cell.section](cell, requests)
        figures |= {
            "read_seconds": reading,
            "cell_seconds": time.perf_counter() - begin,
            "cell_cpu_seconds": time.process_time() - cpu,
            # Of the process, which ran other cells before if it is not a large one.
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        scratch.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({**asdict(cell), "requests": len(requests), **figures}))
        partial.replace(file)
    return cell, json.loads(file.read_text())


def run_estimate(cell: Cell, requests: Requests) -> dict[str, Any]:
    """Make the estimate of a trace on a machine."""
    found = estimate_machine(requests, machine_of(cell, requests), Question())
    # The map is made of the closed form and its scale, which are kept.
    found["map"] = {name: found["map"][name] for name in ("closed", "simulated", "vanishes")}
    found["workload"]["workloads"] = {
        name: {key: value for key, value in w.items() if key in {"requests", "density", "sharing", "bound"}}
        for name, w in found["workload"]["workloads"].items()
    }
    return found


def run_comparison(cell: Cell, requests: Requests) -> dict[str, Any]:
    """Compare the ways that the paper compares."""
    return run_published(requests, machine_of(cell, requests), cell.trace, cell.model)


RUNNERS = {"traces": run_estimate, "large": run_estimate, "published": run_comparison}


def cells(*, quick: bool) -> list[Cell]:
    """Return everything there is to run, those of one trace together."""
    if quick:
        found = [Cell("traces", trace, "llama-3.1-8b", "a100", 800) for trace in ("azure both", VIDEOS)]
        return [*found, Cell("published", "#1", "llama-3.1-8b", "a100", 2_000)]
    found = [
        Cell("traces", trace, model, machine, REQUESTS)
        for trace in TRACES
        for model, machines in MACHINES.items()
        for machine in machines
    ]
    found += [Cell("published", t, "llama-3.1-8b", "a100", PUBLISHED_REQUESTS) for t in workloads.TRACES]
    found += [Cell("published", t, "llama-3.1-70b", "8xa100", PUBLISHED_REQUESTS) for t in workloads.TRACES]
    return [*found, Cell("large", VIDEOS, "llama-3.1-8b", "h100", LARGE)]


def warm_up() -> None:
    """Load or compile the simulator: a first estimate on a machine does so once, for about a minute."""
    start = np.arange(0, 6_401, 100, dtype=np.int64)
    output, zeros = np.full(64, 20, np.int32), np.zeros(64, np.int64)
    tokens = np.random.default_rng(0).integers(0, 1000, start[-1], dtype=np.int32)
    few = Requests("few", tokens, start, output, zeros, ("few",), np.arange(64))
    estimate_machine(few, machine_of(Cell("traces", "few", *BASE, 64), few), Question())


def run(chosen: list[Cell], scratch: Path, jobs: int) -> dict[str, list[dict[str, Any]]]:
    """Run all cells on `jobs` processes, the large ones alone at the end."""
    found: dict[Cell, dict[str, Any]] = {}
    begin = time.perf_counter()
    do = functools.partial(run_cell, scratch=scratch)
    together = [cell for cell in chosen if cell.section != "large"]
    alone = [cell for cell in chosen if cell.section == "large"]
    # Forked processes would inherit the locks of the threads that read the traces.
    context = multiprocessing.get_context("spawn")
    for part, processes in ((together, jobs), *(([cell], 1) for cell in alone)):
        if not part:
            continue
        with context.Pool(processes, warm_up) as pool:
            for cell, figures in pool.imap(do, part):
                found[cell] = figures
                _progress(found, chosen, cell, figures, begin)
    sections = dict.fromkeys(cell.section for cell in chosen)
    return {s: [found[cell] for cell in chosen if cell.section == s] for s in sections}


def _progress(
    found: dict[Cell, dict[str, Any]], chosen: list[Cell], cell: Cell, figures: dict[str, Any], begin: float
) -> None:
    took = time.perf_counter() - begin
    text = f"[{len(found)}/{len(chosen)}, {took:.0f} s] {cell.key}: {figures['cell_seconds']:.0f} s"
    print(text, file=sys.stderr, flush=True)
