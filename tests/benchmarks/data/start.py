"""From the start of a process to its first answer: on a machine that has compiled nothing, and on a warm one.

    python -m tests.benchmarks.data.start [--before CHECKOUT] [--rounds N] [--requests N] [--output FILE]

Each run is a process of its own, with its children in the CPU seconds: `nightblend --version`, and a whole
night of a few requests on the demo's model. The night runs with an empty folder of compiled functions
(`fresh`), once more (`warm`), and as an installation leaves it (`installed`: `nightblend warm` has run). With
``--before`` an earlier checkout runs in turn with this one; after its installation a first night is a fresh
one, since it compiled nothing ahead. What counts are the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.lib.places import RESULTS, ROOT, processor

Taken = dict[tuple[str, str], list[tuple[float, float]]]
"""Build and state -> seconds and CPU seconds of each run."""
DAY = date(2026, 1, 15)
OPTIONS = ("--job", "start", "--policy", "blend", "--max-bad-fraction", "0.1", "--device", "cpu")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--rounds", type=int, default=3, help="of the warm runs; the fresh ones run once")
    parser.add_argument("--printed", type=Path, help="measure nothing: the output of a run that was cut off")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--output", type=Path, default=RESULTS / "start.json")
    options = parser.parse_args(arguments)
    builds = {"after": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    found = summary(printed(options.printed)) if options.printed else {}
    if not options.printed:
        with tempfile.TemporaryDirectory() as scratch:
            logs = Path(scratch) / "logs"
            write = [sys.executable, "-c", _WRITE, str(ROOT / "infra/demo"), str(logs), str(options.requests)]
            subprocess.run(write, check=True)
            found = measure(builds, Path(scratch), logs, options.rounds)
    report = {
        "machine": processor(),
        "date": datetime.now(UTC).date().isoformat(),
        "requests": options.requests,
        "runs": found,
        "ratios": ratios(found),
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return 0


_WRITE = """
import sys
from datetime import date
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from write_logs import write_logs
write_logs(Path(sys.argv[2]), date(2026, 1, 15), requests=int(sys.argv[3]))
"""


def measure(builds: dict[str, Path], scratch: Path, logs: Path, rounds: int) -> dict[str, Any]:
    """Return seconds and CPU seconds of each build and state, the builds taking turns."""
    builds = {name: copied(path, scratch / name) for name, path in builds.items()}
    installed = copied(ROOT, scratch / "installed")
    taken: Taken = {}

    def run(name: str, state: str, command: list[str]) -> None:
        taken.setdefault((name, state), []).append(timed(builds[name], command))
        print(name, state, *(f"{value:.2f}" for value in taken[name, state][-1]), flush=True)

    number = 0

    def night() -> list[str]:
        nonlocal number
        number += 1
        source = str(logs / f"{DAY:%Y/%m/%d}")
        places = ["--source", source, "--store", str(scratch / f"store-{number}")]
        model = ["--model", str(ROOT / "infra/demo/model"), "--run-date", DAY.isoformat()]
        return ["run", *OPTIONS, *places, *model]

    for name in builds:
        run(name, "fresh", night())
    builds["installed"] = installed
    run("installed", "warm command", ["warm"])
    run("installed", "warm command again", ["warm"])
    for _ in range(rounds):
        for name in builds:
            run(name, "warm", night())
            run(name, "version", ["--version"])
    return summary(taken)


def printed(log: Path) -> Taken:
    """Return what a run has printed, as far as it came."""
    taken: Taken = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        if not line.startswith(("before ", "after ", "installed ")):
            continue
        name, *state, seconds, cpu = line.split()
        taken.setdefault((name, " ".join(state)), []).append((float(seconds), float(cpu)))
    return taken


def summary(taken: Taken) -> dict[str, Any]:
    """Return the medians by build and state, and of how many runs."""
    found: dict[str, Any] = {}
    for (name, state), values in taken.items():
        seconds, cpu = (round(median(column), 3) for column in zip(*values, strict=True))
        found.setdefault(name, {})[state] = {"seconds": seconds, "cpu_seconds": cpu, "runs": len(values)}
    return found


def copied(checkout: Path, folder: Path) -> Path:
    """Return a copy of the packages of a checkout, without anything that was made of them."""
    for package in ("engine", "tasks", "flows"):
        shutil.copytree(checkout / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def timed(checkout: Path, command: list[str]) -> tuple[float, float]:
    """Run a command of a checkout; return its seconds, and the CPU seconds of it and its children."""
    home = checkout / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "",
        # Nothing of another build is found there, and an earlier night's Prefect neither.
        "XDG_CACHE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PREFECT_API_URL", None)
    environment.pop("NUMBA_CACHE_DIR", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    started = [sys.executable, "-m", "flows", *command]
    done = subprocess.run(started, env=environment, cwd=home, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in {0, 3}:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Return how many times less CPU time this build takes than the one before, where both were measured."""
    pairs = {
        "first night, installed": ("before", "fresh", "installed", "warm"),
        "first night, nothing compiled": ("before", "fresh", "after", "fresh"),
        "warm": ("before", "warm", "after", "warm"),
        "version": ("before", "version", "after", "version"),
    }
    made = {}
    for name, (old, first, new, second) in pairs.items():
        if first in found.get(old, {}) and second in found.get(new, {}):
            made[name] = round(found[old][first]["cpu_seconds"] / found[new][second]["cpu_seconds"], 2)
    return made


if __name__ == "__main__":
    sys.exit(main())
