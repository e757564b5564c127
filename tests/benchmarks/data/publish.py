"""How fast a night is published: recorded parts -> checks, `output.jsonl`, Parquet, Iceberg tables.

    python -m tests.benchmarks.data.publish [--quick] [--rows 1000000]

Writes `results/publish.json`: `rows`, `mean_text_bytes`, `seconds` and `peak_mb` (most
resident memory of the publishing process) of publishing `rows` answers of 2 KB of random words, and the same
for a fifth and the double of the rows, to show that memory does not grow. Each run is made up by another
process beforehand and its tables are read back by Polars afterwards. `report_s` and `report_mb` are of the
report of a run. All figures are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.base.accounting import Account
from tasks.base.schema import SCHEMAS
from tasks.publish.publish import publish
from tasks.store.folder import FolderStore
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import NAMESPACE
from tests.benchmarks.data import report
from tests.benchmarks.data.made_up_run import AT, DAY, JOB, KEY, MadeUpRun, table, write_part
from tests.benchmarks.lib.places import RESULTS, ROOT

TEXT_BYTES = 2000
TOKENS = TEXT_BYTES // 4
PART_ROWS = 2000
STEPS = 20_000
SIZES = {"fifth": 0.2, "full": 1.0, "double": 2.0}


def words(size: int) -> str:
    """Return random words of eight letters or fewer."""
    rng = random.Random(11)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(20_000)]
    return " ".join(rng.choices(known, k=size // 5))[:size]


def make_run(folder: Path, rows: int) -> None:
    """Record a whole run of `rows` answers in `folder`, as step `infer` leaves it."""
    with MadeUpRun(folder) as night:
        ids = [sha256(b"%d" % i).hexdigest() for i in range(rows)]
        common = {"job": JOB, "run_date": DAY, "source_uri": "s3://logs/2026/01/02/day.jsonl"}

        def identity(first: int, last: int) -> dict[str, Any]:
            count = last - first
            return {
                **{name: [value] * count for name, value in common.items()},
                "request_id": ids[first:last],
                "workload": [("tickets", "reports", "search")[i % 3] for i in range(first, last)],
                "custom_id": [f"request-{i}" for i in range(first, last)],
                "source_line": list(range(first + 1, last + 1)),
                "endpoint": ["chat"] * count,
                "answer_key": [name[::-1] for name in ids[first:last]],
                "passthrough_json": ['{"body":{"metadata":{"workload":"tickets"}}}'] * count,
            }

        requests = table("requests", identity(0, rows) | {"prompt": ["What is it?"] * rows})
        names = [write_part(night, "requests", requests)]
        for label, array in (("tokens", np.ones(3 * rows, np.int32)), ("offsets", np.arange(rows + 1) * 3)):
            path = folder / f"{label}.npy"
            np.save(path, array)
            names.append(night.log.write_part("requests", path, ext="npy", count=rows, label=label).name)
        account = Account(lines=rows, requests=rows)
        night.log.finish_step("extract", {"account": account.counts(), "objects": 1, "parts": names})
        write_part(night, "profiles", _profiles(ids))
        night.log.finish_step("plan", {"policy": "blend", "hit_rate_optimum": 0.5})
        write_part(night, "steps", _steps())
        pool, rng = words(32 << 20), np.random.default_rng(5)
        for first in range(0, rows, PART_ROWS):
            last = min(rows, first + PART_ROWS)
            answers = identity(first, last) | _answers(last - first, pool, rng)
            write_part(night, "outputs", table("outputs", answers))
        night.log.finish_step("infer", {"seconds": 3600.0, "hit_rate": 0.4})


def _answers(count: int, pool: str, rng: np.random.Generator) -> dict[str, Any]:
    starts = rng.integers(0, len(pool) - 2 * TEXT_BYTES, count)
    sizes = rng.integers(TEXT_BYTES // 2, TEXT_BYTES * 3 // 2, count)
    lengths = sizes // 4
    tokens = pa.array(rng.integers(0, 128_000, int(lengths.sum())), pa.int32())
    return {
        "text": [pool[start : start + size] for start, size in zip(starts, sizes, strict=True)],
        "token_ids": pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int32()), tokens),
        "finish_reason": ["stop"] * count,
        "usage": [{"prompt_tokens": 3, "completion_tokens": n, "cached_tokens": 1} for n in lengths.tolist()],
        "run_key": [KEY] * count,
        "attempt_id": ["a"] * count,
        "started_at": [AT] * count,
        "finished_at": [AT] * count,
    }


def _profiles(ids: list[str]) -> pa.Table:
    count = len(ids)
    numbers = {name: np.ones(count) for name in ("compute_seconds", "memory_seconds", "density")}
    return table(
        "profiles",
        {
            "request_id": ids,
            "workload": ["tickets"] * count,
            "input_tokens": np.full(count, 3, np.int32),
            "cached_tokens": np.ones(count, np.int32),
            "estimated_output_tokens": np.full(count, float(TOKENS)),
            "output_length_source": ["workload"] * count,
            **numbers,
        },
    )


def _steps() -> pa.Table:
    found = {field.name: np.ones(STEPS) for field in SCHEMAS["steps"]}
    start = np.datetime64(AT.replace(tzinfo=None), "us")
    return table("steps", found | {"started_at": start + np.arange(STEPS) * np.timedelta64(150, "ms")})


def publish_run(folder: Path) -> dict[str, Any]:
    """Publish the run in `folder`; return seconds and the most resident memory of this process."""
    with MadeUpRun(folder) as night:
        begin, used = time.perf_counter(), time.process_time()
        results = publish(night)
        seconds, used = time.perf_counter() - begin, time.process_time() - used
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "outputs": results["outputs"],
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),
        "peak_mb": round(int(peak) * 1024 / 1e6, 1),
    }


def read_back(folder: Path, rows: int) -> float:
    """Check the published table and lines by readers of their own; return the mean size of a text."""
    store = FolderStore(folder / "store")
    table = open_warehouse(f"sqlite:///{folder}/store/_warehouse/catalog.db", store.uri).load_table(
        f"{NAMESPACE}.llm_outputs"
    )
    frame = pl.scan_iceberg(table.metadata_location, reader_override="native")
    found = frame.select(
        rows=pl.len(), ids=pl.col("request_id").n_unique(), size=pl.col("text").str.len_bytes().mean()
    ).collect(engine="streaming")
    (lines,) = [p for p in (folder / "store").rglob("output.jsonl") if "published" in p.parts]
    with lines.open("rb") as file:
        count = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    if {found["rows"].item(), found["ids"].item(), count} != {rows}:
        raise RuntimeError(f"{rows} rows were published, read back were {found.to_dicts()}, {count} lines")
    return float(found["size"].item())


def measure(rows: int) -> dict[str, Any]:
    """Make a run, publish it in a process of its own, read it back."""
    folder = Path(tempfile.mkdtemp(prefix="nightblend-publish-"))
    try:
        _child("--make", str(folder), "--rows", str(rows))
        found = json.loads(_child("--publish", str(folder)))
        found["mean_text_bytes"] = round(read_back(folder, rows), 1)
        return {"rows": rows, **found}
    finally:
        shutil.rmtree(folder)


def _child(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.benchmarks.data.publish", *arguments]
    # Warnings go to this process's own stderr.
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20,000 rows instead of a million")
    parser.add_argument("--rows", type=int, help="answers of the run that counts")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--publish", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = options.rows or (20_000 if options.quick else 1_000_000)
    if options.make is not None:
        make_run(options.make, rows)
        return
    if options.publish is not None:
        print(json.dumps(publish_run(options.publish)))
        return
    cases = {}
    for name, share in SIZES.items():
        cases[name] = measure(round(rows * share))
        print(name, json.dumps(cases[name]), flush=True)
    full = cases["full"]
    place = RESULTS / ("publish-quick.json" if options.quick else "publish.json")

    results = {
        **{name: full[name] for name in ("rows", "mean_text_bytes", "seconds", "peak_mb")},
        **report.measure(2000 if options.quick else report.REQUESTS),
        "peak_mb_growth": round(cases["double"]["peak_mb"] / cases["fifth"]["peak_mb"], 3),
        "cases": cases,
        "where": {
            "label": "measured",
            "date": datetime.now(UTC).date().isoformat(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "load_at_end": [round(value, 2) for value in os.getloadavg()],
            "python": platform.python_version(),
            "pyarrow": pa.__version__,
            "machine": platform.platform(),
        },
    }
    place.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps({key: value for key, value in results.items() if key != "cases"}, indent=2))


if __name__ == "__main__":
    main()
