"""The planner's benchmark: the blend beside every other order, simulated on A100 and H200.

    python -m tests.benchmarks.plan --quick              # a trial within 4 minutes
    python -m tests.benchmarks.plan --grid-sample 13     # 13 of the 65 mixes
    python -m tests.benchmarks.plan --write              # everything, within 2 hours
    python -m tests.benchmarks.plan --kept --write       # what is done of it; runs nothing

Every cell is kept in a scratch folder named after the code it depends on: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np

from engine.cost.step import NOMINAL
from tests.benchmarks.lib import places, workloads
from tests.benchmarks.plan import sections
from tests.benchmarks.plan.cells import MEMORY_USED, MODEL, SHAPE, code_digest, kv_tokens
from tests.benchmarks.plan.headline import headline
from tests.benchmarks.plan.run import collect, run
from tests.benchmarks.plan.sections import QUICK, TITLES, Scale

RESULTS = places.RESULTS / "plan.json"


def about(scale: Scale, digest: str) -> dict[str, Any]:
    """Return what ran where."""
    return {
        "label": "simulated (the scheduler is the real one, the device is modelled); build is measured",
        "overlap": "simulated, perfect overlap of compute and memory work unless a table says otherwise",
        "lengths": "known to every order unless a table says otherwise",
        "model": MODEL,
        "dtype": "bfloat16",
        "devices": {
            d: {
                "source": NOMINAL[d].source,
                "flops": NOMINAL[d].flops,
                "read_bytes": NOMINAL[d].read_bytes,
                "kv_tokens": kv_tokens(d),
            }
            for d in scale.devices
        },
        "memory_used": MEMORY_USED,
        "kv_bytes_per_token": SHAPE.kv_bytes_per_token,
        "requests": scale.requests,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "code": digest,
    }


def scale_of(arguments: argparse.Namespace) -> Scale:
    """Return how much to run."""
    scale = QUICK if arguments.quick else Scale()
    if arguments.grid_sample:
        scale = replace(scale, grid=min(arguments.grid_sample, len(workloads.GRID)))
    if arguments.requests:
        scale = replace(scale, requests=arguments.requests, auto=arguments.requests)
    return scale


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a trial of every part, not a result")
    parser.add_argument("--grid-sample", type=int, metavar="N", help="N of the 65 mixes, evenly spread")
    parser.add_argument("--requests", type=int, help=f"requests of a mix, at least ({workloads.REQUESTS})")
    parser.add_argument("--section", action="append", choices=sorted(TITLES), help="only these parts")
    parser.add_argument(
        "--cells", metavar="PATTERN", help="only tasks like this: SECTION/DEVICE-MIX/ARGUMENT"
    )
    parser.add_argument("--kept", action="store_true", help="only what the scratch folder has; runs nothing")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "nightblend-bench-plan")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    parser.add_argument("--out", type=Path, help="write the results to this file")
    return parser.parse_args(arguments)


def main(argv: list[str] | None = None) -> None:
    """Run the chosen parts, print their tables and the promised figures."""
    arguments = parse(argv)
    scale, digest = scale_of(arguments), code_digest()
    begin = time.perf_counter()
    head = about(scale, digest)
    for name, value in head.items():
        print(f"{name}: {value}")
    if arguments.quick:
        print("A TRIAL: a few requests, in which the longest answers rule; not a result.")
    if scale.grid < len(workloads.GRID):
        print(f"A SAMPLE of the grid: {scale.grid} of its {len(workloads.GRID)} mixes, evenly spread.")
    tasks = [
        task
        for task in sections.tasks(scale)
        if (not arguments.section or task.section in arguments.section)
        and (not arguments.cells or fnmatch.fnmatch(task.name, arguments.cells))
    ]
    missing: list[str] = []
    if arguments.kept:
        found, missing = collect(tasks, scale, arguments.scratch / digest)
        print(f"{len(tasks) - len(missing)} of {len(tasks)} parts are done")
    else:
        found = run(tasks, scale, arguments.scratch / digest, arguments.jobs)
    for section, figures in found.items():
        sections.print_section(section, figures)
    figures = headline(found)
    print("\n== promised figures")
    for name, value in figures.items():
        print(f"{name}: {value}")
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} s in total")
    out = arguments.out or (RESULTS if arguments.write else None)
    if out:
        whole = not arguments.section and not arguments.cells
        whole = whole and not arguments.quick and scale.grid == len(workloads.GRID)
        complete = whole and not missing
        record = {
            **head,
            "complete": complete,
            "missing": missing,
            "total_seconds": None if arguments.kept else seconds,
            **figures,
            "sections": found,
        }
        if out.exists() and not complete:
            before = json.loads(out.read_text())
            if before["complete"]:
                # Figures of everything are not replaced by those of a part.
                record = {**before, "reduced": record}
                print(f"A part only: written to {out.name} under `reduced`.")
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
