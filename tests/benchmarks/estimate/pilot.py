"""Does a pilot foretell the night? A pilot between two runs of the whole night, several nights over.

    python -m tests.benchmarks.estimate.pilot --write      # about 25 minutes on two quiet cores
    python -m tests.benchmarks.estimate.pilot --write --nights 1 --first-seed 2   # one more

MMLU questions with their five solved examples beside requests with long answers, on the demo's model, other
ones in each of the five nights: `nightblend run` on all, `nightblend pilot` on a sample, `nightblend run` on
all once more. What a night takes is the mean of its step infer before and after the pilot: a machine that
others use too is at times slower for minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np

from tests.benchmarks.estimate.trust import DEMO, nightblend
from tests.benchmarks.lib import places
from tests.support.demo_nights import batch_line, write_lines
from tests.support.mmlu import mmlu_lines

RESULTS = places.RESULTS / "pilot.json"
DAY: Final = "2026-01-15"
WANTED: Final = 0.1
"""Relative error that a prediction may have."""
SUBJECTS: Final = 57
FEWEST: Final = 100
"""Questions of the subject that has the fewest."""
LONG: Final = (150, 650)
"""Limits of long answers, tokens."""


def measure(
    folder: Path, seed: int, questions: int, answers: int, sample: int, rounds: int
) -> dict[str, Any]:
    """Return predicted and measured seconds of one night."""
    write_lines(folder / "logs", "day.jsonl", day_lines(seed, questions, answers))
    what = ("--source", str(folder / "logs"), "--model", str(DEMO / "model"), "--run-date", DAY)

    def night(number: int) -> dict[str, Any]:
        kept = ("--job", "night", "--store", str(folder / f"store-{number}"), "--catalog", "none")
        return nightblend("run", *what, *kept)

    first = night(0)
    tried = nightblend(
        "pilot",
        *what,
        *("--sample", str(sample), "--rounds", str(rounds), "--out", str(folder / "pilot.html")),
    )
    took = [first["seconds"], night(1)["seconds"]]
    predicted, measured = tried["orders"][1]["seconds"], fmean(took)
    return {
        "seed": seed,
        "requests": first["requests"],
        "sampled": tried["sampled"],
        "decision": tried["decision"],
        "predicted_seconds": predicted,
        "predicted_today_seconds": tried["orders"][0]["seconds"],
        "measured_seconds": measured,
        "measured_runs": took,
        "pilot_rounds": {row["order"]: row["round_seconds"] for row in tried["orders"]},
        "error": predicted["central"] / measured - 1.0,
        "within_bounds": predicted["low"] <= measured <= predicted["high"],
        "load_average": round(os.getloadavg()[0], 2),
    }


def day_lines(seed: int, questions: int, answers: int) -> list[str]:
    """Return the batch lines of a night in random order: other questions and other long answers by seed.

    Long ones are sampled, so that some end before their limit.
    """
    rng = np.random.default_rng(seed)
    skip = (seed - 1) * (questions // SUBJECTS) % (FEWEST - questions // SUBJECTS + 1)
    lines = mmlu_lines(SUBJECTS, questions, 0, seed, skip=skip)
    for i in range(answers):
        settings = {"max_tokens": int(rng.integers(*LONG)), "temperature": 1.0, "seed": i}
        first = int(rng.integers(1000))
        text = f"Count from {first} to {first + 300}"
        lines.append(batch_line(f"long-{i}", text, metadata={"workload": "long"}, **settings))
    return [lines[i] for i in rng.permutation(len(lines))]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--questions", type=int, default=1_140)
    parser.add_argument("--answers", type=int, default=100, help="long ones")
    parser.add_argument("--sample", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    given = parser.parse_args(argv)
    nights = []
    for seed in range(given.first_seed, given.first_seed + given.nights):
        with tempfile.TemporaryDirectory(prefix="nightblend-pilot-") as folder:
            found = measure(Path(folder), seed, given.questions, given.answers, given.sample, given.rounds)
        print(json.dumps(found), flush=True)
        nights.append(found)
    asked = {name: getattr(given, name) for name in ("questions", "answers", "sample", "rounds")}
    nights = [*_kept(asked, {night["seed"] for night in nights}), *nights]
    record = {
        "label": "predicted: from a sample, simulated for the rest; measured: mean step infer of two runs",
        "device": "cpu",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
        "asked": asked,
        "wanted_error": WANTED,
        "within": sum(abs(night["error"]) <= WANTED for night in nights),
        "nights": sorted(nights, key=lambda night: int(night["seed"])),
    }
    print(json.dumps({name: value for name, value in record.items() if name != "nights"}, indent=1))
    if given.write:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _kept(asked: dict[str, Any], anew: set[int]) -> list[dict[str, Any]]:
    """Return the nights of the results that were asked for alike and are not measured anew."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return [n for n in before.get("nights", ()) if before["asked"] == asked and n["seed"] not in anew]


if __name__ == "__main__":
    main()
