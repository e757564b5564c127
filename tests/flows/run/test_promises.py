"""Whole nights with promises to two tenants, on an engine that computes nothing and a clock of its own."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from flows.views.console import rows_of
from tasks.base.errors import ConfigurationError
from tasks.infer import promises
from tasks.infer.session import EngineSession
from tasks.runlog import records
from tests.support import scripted_backend
from tests.support.dated_nights import FIRST, night_of
from tests.support.demo_nights import batch_line, write_lines

if TYPE_CHECKING:
    from tasks.infer.progress import InferProgress

BEGUN = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
TENANTS = {"acme": 40, "beta": 24, "crowd": 96}
GIVEN: dict[str, Any] = {
    "policy": "blend",
    "kv_tokens": 4096,
    "max_sequences": 8,
    "promise": ["acme=23:20", "beta=01:30,10%", "nobody=02:00"],
}


class Reporter:
    def __init__(self) -> None:
        self.heard: list[InferProgress] = []

    def answered(self, progress: InferProgress) -> None:
        self.heard.append(progress)

    def begin(self, _: str) -> None: ...

    def goes_on(self, *_: object) -> None: ...

    def end(self, *_: object) -> None: ...


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a night whose engine takes so many seconds a step; nobody waits for them."""
    now = BEGUN.timestamp()
    monkeypatch.setattr(promises, "clock", lambda: now)
    monkeypatch.setattr(records, "utc_now", lambda: datetime.fromtimestamp(now, UTC).isoformat())
    take = EngineSession.take

    def taken(session: EngineSession, message: dict[str, Any]) -> None:
        nonlocal now
        times = [message.get("started_at"), *(item["finished_at"] for item in message.get("items", []))]
        now = max([now, *filter(None, times)])
        take(session, message)

    monkeypatch.setattr(EngineSession, "take", taken)

    # They arrive in turns, a line that nobody can answer among those of acme.
    def line(name: str, tenant: str, **body: Any) -> str:
        return batch_line(name, f"{name} counts.", metadata={"tenant": tenant}, max_tokens=8, **body)

    lines = [
        (i / count, line(f"{tenant}{i}", tenant)) for tenant, count in TENANTS.items() for i in range(count)
    ]
    lines.append((0.5, line("tools", "acme", tools=[{"type": "function"}])))
    write_lines(tmp_path / "logs" / FIRST.isoformat(), "day.jsonl", [line for _, line in sorted(lines)])

    def run(step_s: float, **given: Any) -> tuple[dict[str, Any], Reporter]:
        clock = {"start": BEGUN.timestamp(), "step_s": step_s}
        scripted_backend.use(monkeypatch, tmp_path / "script", clock=clock)
        reporter = Reporter()
        parameters = night_of(tmp_path, run_date=FIRST, max_bad_fraction=0.5, **{**GIVEN, **given})
        return run_night(night_request(parameters), reporter=reporter), reporter

    return run


def logged(result: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The bodies of a run's records of a kind, as anybody reads them."""
    read = (json.loads(path.read_text()) for path in sorted((Path(result["run_dir"]) / "log").glob("*.json")))
    return [record["body"] for record in read if record["kind"] == kind]


def ends_of(result: dict[str, Any]) -> dict[str, list[datetime]]:
    table = pq.read_table(Path(result["folder"]) / "outputs.parquet", columns=["tenant", "finished_at"])
    found: dict[str, list[datetime]] = {}
    for row in table.to_pylist():
        found.setdefault(row["tenant"], []).append(row["finished_at"])
    return found


def test_promises_that_are_kept(night, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result, reporter = night(60.0)
    ends = ends_of(result)
    assert {tenant: len(found) for tenant, found in ends.items()} == TENANTS
    # Theirs were first, in the order of their times; the others came behind them.
    assert max(ends["acme"]) <= min(ends["beta"])
    assert max(ends["beta"]) <= min(ends["crowd"])
    table = pq.read_table(Path(result["folder"]) / "promises.parquet").to_pylist()
    acme, beta, nobody = table
    assert (acme["kept"], acme["in_time"], acme["late"], acme["requests"]) == (1.0, 40, 0, 40)
    assert acme["refused"] == 1
    assert acme["ready_by"] == datetime(2026, 3, 28, 23, 20, tzinfo=UTC)
    assert acme["last_answer_at"] == max(ends["acme"])
    assert acme["share_received"] == 1.0
    assert (beta["kept"], beta["share"]) == (1.0, 0.1)
    assert beta["ready_by"] == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert 0.1 < beta["share_received"] < 0.6
    assert (nobody["requests"], nobody["kept"], nobody["last_answer_at"]) == (0, 1.0, None)
    assert logged(result, "promise_at_risk") == []
    assert all(not heard.at_risk for heard in reporter.heard)
    page = Path(result["report_file"]).read_text()
    assert "Promises" in page
    assert "100 %" in page
    said = [text for _, text in rows_of(result)]
    assert any(text.startswith("acme: kept 100 % (40 of 40), ready 23:") for text in said)
    assert "nobody: no request of this tenant" in said
    asked = ["status", "--job", "triage", "--store", str(tmp_path / "store"), "--run-date", str(FIRST)]
    assert main(asked) == 0
    assert "acme: kept 100 % (40 of 40)" in capsys.readouterr().out


def test_a_promise_that_is_not_kept_is_told_before_its_time(
    night, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        result, reporter = night(300.0)
    ends = ends_of(result)
    due = datetime(2026, 3, 28, 23, 20, tzinfo=UTC)
    late = [end for end in ends["acme"] if end > due]
    assert late
    # Read from the store by nobody of ours: it was known before.
    (risk,) = logged(result, "promise_at_risk")
    assert risk["tenant"] == "acme"
    assert datetime.fromisoformat(risk["seen"]) < due < datetime.fromisoformat(risk["expected"])
    assert risk["answered"] < TENANTS["acme"]
    assert reporter.heard[-1].at_risk[0].tenant == "acme"
    assert "the promise to acme is at risk" in caplog.text
    acme, beta, _ = result["promises"]
    assert (acme["late"], acme["in_time"]) == (len(late), 40 - len(late))
    assert acme["kept"] == acme["in_time"] / 40
    assert acme["late_by_s"] == (max(late) - due).total_seconds()
    assert acme["at_risk_at"] == risk["seen"]
    assert beta["kept"] == 1.0
    page = Path(result["report_file"]).read_text()
    assert "the requests of acme were expected at" in page
    asked = ["status", "--job", "triage", "--store", str(tmp_path / "store"), "--run-date", str(FIRST)]
    assert main(asked) == 0
    assert f"{len(late)} late, the last by" in capsys.readouterr().out


def test_a_wrong_setting_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["run", "--job", "triage", "--source", "logs/", "--store", str(tmp_path), "--model", "m"]
    typed += ["--run-date", str(FIRST), "--promise", "acme=6 o'clock"]
    assert main(typed) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.startswith("nightblend: --promise") or "--promise: " in said
    with pytest.raises(ConfigurationError, match="--timezone"):
        night_request(night_of(tmp_path, run_date=FIRST, timezone="Mars/Base", promise=["acme=06:00"]))
