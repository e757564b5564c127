"""A candidate by rules with the real engine and a real store, read by nobody of ours."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tests.support.dated_nights import day, night_of
from tests.support.demo_nights import batch_line, write_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

COUNT = 40
# Fixed names: which tenants are in a share does not depend on where the logs are. How fast a few requests are
# answered on a busy machine says nothing, so that limit is wide.
GIVEN: dict[str, Any] = {
    "policy": "fcfs",
    "canary_steps": "5,25,100",
    "canary_by": "tenant",
    "canary_answers": COUNT,
    "canary_nights": 1,
    "canary_slower": 100,
    "kv_tokens": 8192,
    "max_sequences": 16,
    "report": False,
}


def night(root: Path, n: int, **given: Any) -> dict[str, Any]:
    lines = [
        batch_line(f"r{i}", f"Count from {i} to {i + 6}.", max_tokens=24, metadata={"tenant": f"h{i}"})
        for i in range(COUNT)
    ]
    write_lines(root / "logs" / str(day(n)), "day.jsonl", lines)
    return run_night(night_request(night_of(root, run_date=day(n), **GIVEN | given)))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def transitions(root: Path) -> list[tuple[str, float, str]]:
    """(action, percent, stage) of each record of the candidate's log."""
    found = [record["body"] for record in records(root / "store" / "triage" / "canary" / "log")]
    return [(body["action"], body["percent"], body["stage"]) for body in found]


def published(root: Path, n: int) -> tuple[list[dict[str, Any]], Callable[[str], str]]:
    """The rows of a date's current publication, and what says of each run which side it is."""
    job = root / "store" / "triage"
    log = records(job / "dates" / f"run_date={day(n)}" / "log")
    current = [record["body"] for record in log if record["kind"] == "published"][-1]
    folder = job / "published" / f"run_date={day(n)}" / current["publication_id"]
    rows = pq.read_table(folder / "outputs.parquet").to_pylist()
    # Nothing is lost, and each request has one result, in the table and in the lines.
    assert Counter(row["custom_id"] for row in rows) == Counter(f"r{i}" for i in range(COUNT))
    lines = [json.loads(line) for line in (folder / "output.jsonl").read_text().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == sorted(row["custom_id"] for row in rows)
    assert (folder / "errors.jsonl").read_text() == ""

    def side(run_key: str) -> str:
        attempts = records(job / "runs" / f"run_date={day(n)}" / run_key / "log")
        said = next(one["body"]["params"] for one in attempts if one["kind"] == "attempt")
        return str(said.get("side", ""))

    return rows, side


def of_candidate(root: Path, n: int) -> int:
    rows, side = published(root, n)
    return sum(side(row["run_key"]).startswith("candidate") for row in rows)


def test_a_candidate_that_answers_the_same_goes_on_to_everything(tmp_path: Path) -> None:
    shares = []
    for n in range(3):
        # At 100 % there is nobody left to compare with; that needs no engine.
        night(tmp_path, n, canary_option=["policy=dfs"], canary_answers=COUNT if n < 2 else 0)
        shares.append(of_candidate(tmp_path, n))
    assert transitions(tmp_path) == [
        ("begin", 5.0, "canary"),
        ("promote", 25.0, "canary"),
        ("begin", 25.0, "canary"),
        ("promote", 100.0, "canary"),
        ("begin", 100.0, "canary"),
        ("promote", 100.0, "promoted"),
    ]
    assert 0 < shares[0] < shares[1] < COUNT
    assert shares[2] == COUNT
