"""How long the report of a large night takes, and how large its page is.

    python -m tests.benchmarks.data.report [--requests 400000]

`measure(requests)` returns `report_s` and `report_cpu_s`, wall and processor time of reading a finished run
of a folder store and writing its page and markdown, counterfactual orders included, in a process of its own;
and `report_mb`, the size of the page. The simulator is compiled before, once per machine, by a small night.
`make bench-publish` writes the figures into `results/publish.json`. They are measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.cost.optimum import PRESETS
from engine.cost.profiles import NOMINAL
from tests.benchmarks.data.made_up_run import AT, DAY, JOB, KEY, MadeUpRun, table, write_part
from tests.benchmarks.lib.places import ROOT

REQUESTS = 400_000
STEPS = 60_000
WORKLOADS = ("tickets", "reports", "search", "mail")
PREFIXES = 400
"""Beginnings of prompts that requests share, 64 to 512 tokens each."""
SECONDS = 0.12
"""Of a step: two hours in all."""


def make_run(folder: Path, requests: int) -> None:
    """Record a whole run as step `infer` leaves it; lengths are log-normal, most prompts share a start."""
    rng = np.random.default_rng(7)
    ids = [sha256(b"%d" % i).hexdigest() for i in range(requests)]
    workload = [WORKLOADS[i % len(WORKLOADS)] for i in range(requests)]
    own = rng.lognormal(4.8, 0.9, requests).clip(8, 4000).astype(np.int64)
    heads = [rng.integers(0, 100_000, n).astype(np.int32) for n in rng.integers(64, 512, PREFIXES)]
    head = np.where(rng.random(requests) < 0.75, rng.integers(0, PREFIXES, requests), -1)
    shared = np.where(head >= 0, np.array([len(h) for h in heads])[head], 0)
    start = np.concatenate(([0], np.cumsum(own + shared))).astype(np.int64)
    tokens = rng.integers(0, 100_000, start[-1], np.int32)
    for i in np.flatnonzero(head >= 0).tolist():
        tokens[start[i] : start[i] + shared[i]] = heads[head[i]]
    output = rng.lognormal(4.5, 1.1, requests).clip(1, 8000).astype(np.int64)
    prompt = np.diff(start)
    with MadeUpRun(folder) as night:
        common = {
            **{name: [value] * requests for name, value in (("job", JOB), ("run_date", DAY))},
            "source_uri": ["s3://logs/day.jsonl"] * requests,
            "request_id": ids,
            "workload": workload,
            "source_line": np.arange(1, requests + 1),
            "endpoint": ["chat"] * requests,
            "answer_key": [name[::-1] for name in ids],
        }
        names = [write_part(night, "requests", table("requests", common | {"prompt": ["?"] * requests}))]
        for label, array in (("tokens", tokens), ("offsets", start)):
            path = folder / f"{label}.npy"
            np.save(path, array)
            names.append(night.log.write_part("requests", path, ext="npy", count=requests, label=label).name)
        night.log.finish_step("extract", {"parts": names})
        profiles = {
            **{name: np.ones(requests) for name in ("compute_seconds", "memory_seconds", "density")},
            "request_id": ids,
            "workload": workload,
            "input_tokens": prompt,
            "cached_tokens": shared,
            "estimated_output_tokens": output * rng.uniform(0.5, 1.5, requests),
            "output_length_source": ["workload"] * requests,
        }
        write_part(night, "profiles", table("profiles", profiles))
        done = np.datetime64(AT.replace(tzinfo=None), "us") + np.arange(requests) * np.timedelta64(17, "ms")
        usage = pa.StructArray.from_arrays(
            [pa.array(x, pa.int32()) for x in (prompt, np.minimum(shared, prompt - 1), output)],
            ["prompt_tokens", "cached_tokens", "completion_tokens"],
        )
        answers = {
            **common,
            "text": ["x" * 200] * requests,
            "finish_reason": ["stop"] * requests,
            "usage": usage.to_pylist(),
            "run_key": [KEY] * requests,
            "attempt_id": ["a"] * requests,
            "started_at": done,
            "finished_at": done,
        }
        for first in range(0, requests, 20_000):
            part = {name: values[first : first + 20_000] for name, values in answers.items()}
            write_part(night, "outputs", table("outputs", part))
        write_part(night, "steps", _steps(rng))
        _finish(night, int(prompt.sum()), int(output.sum()))


def _steps(rng: np.random.Generator) -> pa.Table:
    from tasks.base.schema import SCHEMAS

    found: dict[str, Any] = {field.name: rng.integers(1, 500, STEPS) for field in SCHEMAS["steps"]}
    for name in ("modelled_compute_seconds", "modelled_memory_seconds", "modelled_seconds"):
        found[name] = rng.uniform(0, SECONDS, STEPS)
    start = np.datetime64(AT.replace(tzinfo=None), "us")
    return table(
        "steps",
        found
        | {
            "started_at": start + np.arange(STEPS) * np.timedelta64(int(1e6 * SECONDS), "us"),
            "seconds": np.full(STEPS, SECONDS),
            "kv_occupancy": rng.uniform(0, 1, STEPS),
        },
    )


def _finish(night: Any, prompt: int, output: int) -> None:
    seconds = STEPS * SECONDS
    figures = {"mfu": 0.5, "mbu": 0.6, "overlap_fraction": 0.4, "kv_occupancy": 0.8, "hit_rate": 0.4}
    night.log.finish_step("plan", {"policy": "blend", "hit_rate_optimum": 0.45})
    night.log.finish_step(
        "infer",
        {
            **figures,
            "hit_rate_optimum": 0.45,
            "input_tokens": prompt,
            "output_tokens": output,
            "engine_seconds": seconds,
            "gpu_seconds_held": seconds + 60,
            "gpu_seconds_busy": seconds,
            "kv_tokens": 400_000,
            "device": asdict(NOMINAL["h100"]),
            "shape": asdict(PRESETS["llama-3.1-8b"]),
            "engine_settings": {"page_size": 16, "token_budget": 2048, "max_sequences": 512, "run_seed": 0},
        },
    )


def report_of(folder: Path) -> dict[str, float]:
    """Write the report of the run in `folder`; return seconds and the size of the page."""
    begin, used = time.perf_counter(), time.process_time()
    from tasks.report.files import report_run
    from tasks.runlog.places import run_prefix
    from tasks.store.folder import FolderStore

    store = FolderStore(folder / "store")
    page, _ = report_run(store.object_uri(run_prefix(JOB, DAY.isoformat(), KEY)), folder / "report.html")
    return {
        "report_s": round(time.perf_counter() - begin, 2),
        "report_mb": round(page.stat().st_size / 1e6, 3),
        "report_cpu_s": round(time.process_time() - used, 2),
    }


def measure(requests: int = REQUESTS) -> dict[str, float]:
    """Make a run and its report, in processes of their own."""
    found: dict[str, float] = {}
    for count in (500, requests):
        folder = Path(tempfile.mkdtemp(prefix="nightblend-report-"))
        try:
            _child("--make", str(folder), "--requests", str(count))
            found = json.loads(_child("--report", str(folder)))
        finally:
            shutil.rmtree(folder)
    return found


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.benchmarks.data.report", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        make_run(options.make, options.requests)
    elif options.report is not None:
        print(json.dumps(report_of(options.report)))
    else:
        print(json.dumps(measure(options.requests)))


if __name__ == "__main__":
    main()
