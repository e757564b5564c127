"""A backfill gives way to a night with real engines: two commands, one device, nothing lost or done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from tasks.operations.dates import view_date
from tasks.store.contract import plain_path
from tasks.store.open import open_store
from tests.deployed.processes import LONG_S, computing, halt_when, wait
from tests.support.demo_nights import batch_line, write_lines
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.skipif(
    not os.environ.get("NIGHTBLEND_DEPLOYED"), reason="slow; `make test-prefect` runs it"
)

COUNT = 40
DAYS = [date(2026, 3, 28) + timedelta(days=i) for i in range(3)]


def start(root: Path, command: str, *more: str) -> subprocess.Popen[str]:
    settings = {
        "job": "triage",
        "source": root / "logs" / "{run_date}",
        "store": root / "store",
        "model": DEMO_MODEL,
        "max-sequences": 4,
        "part-answers": 5,
        "kv-tokens": 4096,
        "lease-s": 20,
        "heartbeat-s": 1,
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", command, *flags, *more, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_backfill_stops_at_its_next_part_for_a_night_and_goes_on_after_it(tmp_path):
    for when in DAYS:
        lines = [
            batch_line(f"r{i}", f"Count from {i} to {i + 90}", max_tokens=120, ignore_eos=True)
            for i in range(COUNT)
        ]
        write_lines(tmp_path / "logs" / when.isoformat(), "day.jsonl", lines)
    store = open_store(str(tmp_path / "store"))

    def last_run(when):
        return view_date(store, "triage", when).last_run

    backfill = start(tmp_path, "backfill", "--first", DAYS[0].isoformat(), "--last", DAYS[1].isoformat())
    engine = wait(lambda: (run := last_run(DAYS[0])) is not None and computing(run.log))
    # Halted, so that the night certainly comes while it computes.
    halt_when(engine, lambda: last_run(DAYS[0]).state.parts_of("outputs"))
    night = start(tmp_path, "run", "--run-date", DAYS[2].isoformat())
    wait(lambda: last_run(DAYS[0]).state.stop_requested)
    engine.resume()

    said, errors = night.communicate(timeout=LONG_S)
    assert night.returncode == 0, errors
    assert json.loads(said)["outputs"] == COUNT
    said, errors = backfill.communicate(timeout=LONG_S)
    assert backfill.returncode == 0, errors
    result = json.loads(said)
    assert [row["outcome"] for row in result["rows"]] == ["published", "published"]

    first, second, own = (last_run(when).state for when in DAYS)
    assert [ended.status for ended in first.endings.values()] == ["stopped", "completed"]
    assert next(iter(first.endings.values())).exit_code == 4
    assert [ended.status for ended in second.endings.values()] == ["completed"]
    assert [ended.status for ended in own.endings.values()] == ["completed"]
    # What was answered before the stop is kept: both attempts have parts, each request one answer.
    writers = {part.attempt_id for part in first.parts_of("outputs")}
    assert writers == {attempt.id for attempt in first.attempts}
    for when in DAYS:
        current = view_date(store, "triage", when).current
        lines = Path(plain_path(current.details["output_file"])).read_text().splitlines()
        names = sorted(json.loads(line)["custom_id"] for line in lines)
        assert names == sorted(f"r{i}" for i in range(COUNT))
