"""What nights of real traces would take and save: every trace, model and GPU, and the published setting.

    python -m tests.benchmarks.estimate --quick     # a trial of every part, within 3 minutes
    python -m tests.benchmarks.estimate --write     # everything, a quarter of an hour on two cores

Every cell is kept in a scratch folder named after the code it depends on: a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numba
import numpy as np

from tasks.estimate.words import span
from tests.benchmarks.estimate.cells import cells, code_digest, run
from tests.benchmarks.estimate.published import DIFFERENCES, REPORTED, print_published
from tests.benchmarks.lib import places

RESULTS = places.RESULTS / "estimate.json"


def about(digest: str) -> dict[str, Any]:
    """Return what ran where."""
    return {
        "label": "simulated (real scheduler, modelled device); took_seconds, read_seconds, cell_seconds, "
        "cell_cpu_seconds and peak_memory_mb are measured",
        "devices": "nominal: datasheet peaks times 0.7 (compute) and 0.85 (memory)",
        "dtype": "bfloat16",
        "lengths": "schedulers know means by workload and prompt length, not each answer",
        "today": "first come first served, prefix cache, no overlap of operations, its best budget",
        "overlap": "max + g * min with g = 0.5 (0.2 to 0.8 for the bounds), assumed",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "code": digest,
    }


def print_traces(rows: list[dict[str, Any]]) -> None:
    """Print a line for each trace, model and machine; closed over simulated gain is `map`."""
    print(
        f"{'trace':24}{'model':15}{'machine':9}{'n':>8}{'density':>9}{'sharing':>9}{'today h':>9}"
        f"{'ours h':>9}{'saving':>18}{'optimum':>9}{'map':>6}{'took s':>8}{'MB':>7}  from"
    )
    for row in rows:
        w, saving = row["workload"], span(row["saving"])
        parts = " x ".join(f"{p['name']} {p['factor']:.2f}" for p in row["sources"] if p["factor"] != 1.0)
        share = row["optimum"]["practical"] / row["ours"]["seconds"]
        print(
            f"{row['trace']:24}{row['model']:15}{row['machine']:9}{row['requests']:>8,}{w['density']:>9.2f}"
            f"{w['sharing']:>9.1%}{row['gpu_hours']['today']['central']:>9.3f}"
            f"{row['gpu_hours']['ours']['central']:>9.3f}{saving:>18}{share:>9.1%}"
            f"{row['map']['closed'] / row['map']['simulated']:>6.2f}{row['took_seconds']:>8.1f}"
            f"{row['peak_memory_mb']:>7,.0f}"
            f"  {row['verdict']['answer']}: {parts}; best order {row['best_order']}"
        )


def main(argv: list[str] | None = None) -> None:
    """Run the cells, print their tables, write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a trial of every part, not a result")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--only", metavar="TEXT", help="only cells whose name has it")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "nightblend-bench-estimate"
    )
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    arguments = parser.parse_args(argv)
    digest = code_digest()
    chosen = [c for c in cells(quick=arguments.quick) if not arguments.only or arguments.only in c.key]
    begin = time.perf_counter()
    found = run(chosen, arguments.scratch / digest, arguments.jobs)
    for section, rows in found.items():
        print(f"\n== {section} (simulated)")
        (print_published if section == "published" else print_traces)(rows)
    seconds = time.perf_counter() - begin
    print(f"\n{seconds:.0f} s in total")
    if arguments.write:
        complete = not arguments.quick and not arguments.only
        paper = {"reported": REPORTED, "differences": DIFFERENCES}
        record = {**about(digest), "complete": complete, "total_seconds": seconds, "paper": paper}
        record["sections"] = found
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
