"""The loop of estimate and run on this machine: is the estimated duration of a night the real one?

    python -m tests.benchmarks.estimate.trust --write      # about six minutes on two quiet cores

Measures the machine with the demo's model, runs a first night, estimates a second one from its logs and what
the first has taught (`nightblend trust`), runs it, and compares.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.lib import places

RESULTS = places.RESULTS / "trust.json"
DEMO = places.ROOT / "infra" / "demo"
FIRST, SECOND = date(2026, 1, 15), date(2026, 1, 16)
REQUESTS = 3_000
CALIBRATION_S = 60.0


def nightblend(*arguments: str) -> dict[str, Any]:
    """Run a command and return its JSON."""
    command = [sys.executable, "-m", "flows.cli", *arguments, "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        command, cwd=places.ROOT, env=environment, stdout=subprocess.PIPE, check=False, text=True
    )
    if done.returncode not in {0, 3}:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(folder: Path, requests: int, seconds: float) -> dict[str, Any]:
    """Return estimated and measured seconds of the second night, with and without the first one's lesson."""
    model, store, profile = folder / "model", folder / "store", folder / "cpu.json"
    shutil.copytree(DEMO / "model", model)
    for seed, day in enumerate((FIRST, SECOND)):
        many = ("--run-date", str(day), "--seed", str(seed), "--requests", str(requests))
        command = [sys.executable, DEMO / "write_logs.py", folder / "logs", *many]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    source = f"{folder}/logs/{{run_date:%Y/%m/%d}}/"
    calibrated = nightblend(
        "calibrate", "--model", str(model), "--out", str(profile), "--seconds", str(seconds)
    )
    what = ("--model", str(model), "--source", source, "--device-profile", str(profile))
    past = ("--job", "loop", "--store", str(store))

    def night(day: date) -> dict[str, Any]:
        return nightblend("run", *what, *past, "--run-date", str(day), "--catalog", "none")

    first = night(FIRST)
    trust = nightblend("trust", *past)["runs"][0]
    estimated = nightblend("estimate", *what, *past, "--run-date", str(SECOND), "--max-gpus", "1")
    second = night(SECOND)
    machine = estimated["machines"][0]
    ours, corrections = machine["ours"], estimated["corrections"][machine["machine"]]
    plain = ours["seconds"] + corrections["overhead_seconds"]
    return {
        "requests": second["requests"],
        "calibration": {name: calibrated[name] for name in ("steps", "error_p50", "error_p95")},
        "first_night": {"seconds": first["seconds"], "trust": trust},
        "corrections": corrections,
        "estimated_seconds": ours["corrected_seconds"],
        "estimated_seconds_uncorrected": plain,
        "measured_seconds": second["seconds"],
        "error": ours["corrected_seconds"] / second["seconds"] - 1.0,
        "error_uncorrected": plain / second["seconds"] - 1.0,
        "estimated_output_tokens": estimated["requests"]["output_tokens"],
        "measured_output_tokens": second["output_tokens"],
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seconds", type=float, default=CALIBRATION_S, help="how long to calibrate")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    arguments = parser.parse_args(argv)
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="nightblend-trust-") as folder:
        found = measure(Path(folder), arguments.requests, arguments.seconds)
    record = {
        "label": "estimated: simulated with a measured device profile; measured: wall time of step infer",
        "device": "cpu",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_at_start": load,
        "date": datetime.now(UTC).date().isoformat(),
        **found,
    }
    print(json.dumps(record, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
