"""Calls Nightblend from another Prefect flow: what comes before and after a night is a task of your own.

    python examples/in_a_flow.py [FOLDER]

With PREFECT_API_URL set it runs on that server; else Prefect starts its own API inside the process first,
which takes some ten seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefect import flow, task

from flows.api import NightResult, results, run_night

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "infra" / "demo" / "model"


@task
def export(folder: Path, run_date: str) -> Path:
    """Write the requests of the day; here they are made up."""
    source = folder / "logs" / run_date
    source.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"r{first}", "ask": f"Count from {first} to {first + 5}.\nAnswer:"} for first in range(1, 6)
    ]
    (source / "day.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return source


@task
def hand_on(store: Path, night: NightResult) -> int:
    """Use the answers: count the words of each."""
    answers = results(store, night.job, night.run_date).outputs()
    return int(answers["text"].str.strip_chars().str.split(" ").list.len().sum())


@flow
def daily(folder: Path, run_date: str) -> int:
    """Export the requests of a day, have them answered, hand the answers on."""
    source = export(folder, run_date)
    # A subflow with its own states, logs and artifacts; without `as_flow` it is plain code inside this flow.
    night = run_night(
        as_flow=True,
        job="daily",
        source=source,
        store=folder / "store",
        model=MODEL,
        run_date=run_date,
        columns=["prompt=ask", "custom_id=id"],
        max_tokens=32,
        report=False,
    )
    # Too many bad rows are no exception: the night is published, and what follows may decide for itself.
    if not night.within_limits:
        raise ValueError(f"{night.errors} of {night.requests} requests have no answer")
    return hand_on(folder / "store", night)


if __name__ == "__main__":
    words = daily(
        Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".demo" / "examples" / "in_a_flow", "2026-11-22"
    )
    print(f"words in the answers: {words}")
