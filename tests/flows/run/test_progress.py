"""What people see of a night that goes on: counts that add up, every long step, and the time left."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest

from flows.run.aside import Aside
from flows.run.reporter import Silent
from flows.views import console, progress
from flows.views.progress_text import progress_text, so_far, waiting_text
from tasks.base.progress import Amount, tell
from tasks.infer.infer import infer
from tasks.infer.progress import InferProgress
from tasks.plan.plan import plan
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, night_request, opened, write_lines


def seen(answered: int, seconds: float, computing: float, **more) -> InferProgress:
    return InferProgress(answered, 1000, answered * 10, seconds, computing, **more)


def test_rates_and_times_do_not_count_the_start_of_an_engine():
    # Ten minutes of loading, then ten answers a second.
    first, now = seen(0, 600.0, 0.0), seen(500, 650.0, 50.0)
    assert progress_text(now, first) == (
        "500 of 1,000 requests answered, 100 output tokens/s, about 50 s to go"
    )


def test_no_time_is_left_where_more_is_answered_than_was_thought():
    assert "to go" not in progress_text(seen(1180, 20.0, 20.0), seen(0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("amount", "expected", "text"),
    [
        (None, None, "reading: 12 s so far"),
        (Amount(40, 100, "requests"), None, "reading: 12 s so far, 40% of 100 requests, about 18 s to go"),
        (Amount(0, 3e9, "bytes"), None, "reading: 12 s so far, 0% of 3 GB"),
        (Amount(200, 100, "rows"), None, "reading: 12 s so far, 100% of 100 rows, about 0 s to go"),
        (None, 60.0, "reading: 12 s so far, about 48 s to go"),
        (None, 5.0, "reading: 12 s so far"),
    ],
)
def test_a_long_step_tells_how_long_it_still_takes_where_that_is_known(amount, expected, text):
    assert so_far("reading", 12.0, amount, expected) == text


def test_the_start_of_an_engine_is_no_answering():
    assert "loads the model: 30 s so far, about 10 s to go" in waiting_text(
        seen(0, 30.0, 0.0, phase="starting", expected_seconds=40.0), 30.0
    )
    assert "compiles" in waiting_text(seen(0, 30.0, 0.0, phase="compiling"), 3.0)
    assert waiting_text(seen(0, 30.0, 0.0), 3.0) is None


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that reporters see; a test sets it."""
    now = [0.0]
    for module in (console, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_every_long_step_is_shown_in_a_terminal_and_in_prefect(capsys, monkeypatch, clock):
    shown = []
    bar = progress.FlowReporter(logging.getLogger("test_progress"), "triage")
    monkeypatch.setattr(bar, "_show", lambda share, text: shown.append((share, text)))
    terminal = console.ConsoleReporter()
    for step in ("extract", "tokenize", "profile", "plan", "publish"):
        shown.clear()
        for reporter in (terminal, bar):
            reporter.begin(step)
        clock[0] += 4.0
        for reporter in (terminal, bar):
            reporter.goes_on(step, 4.0, None)
        assert "so far" not in capsys.readouterr().err
        assert shown == []
        clock[0] += 2.0
        for reporter in (terminal, bar):
            reporter.goes_on(step, 6.0, Amount(3, 4, "requests"))
        text = "6 s so far, 75% of 4 requests, about 2 s to go"
        assert text in capsys.readouterr().err
        assert [(share, text in said) for share, said in shown] == [(0.75, True)]
    shown.clear()
    for reporter in (terminal, bar):
        clock[0] = 0.0
        reporter.begin("infer")
        reporter.answered(seen(0, 0.0, 0.0, phase="starting"))
        clock[0] = 12.0
        reporter.goes_on("infer", 12.0, None)
        reporter.answered(seen(0, 12.0, 0.0, phase="compiling"))
        clock[0] = 24.0
        reporter.goes_on("infer", 24.0, None)
        reporter.answered(seen(0, 24.0, 0.0))
        clock[0] = 36.0
        reporter.goes_on("infer", 36.0, None)
        reporter.answered(seen(120, 36.0, 12.0))
    said = capsys.readouterr().err
    for text in ("loads the model", "compiles", "120 of 1,000 requests answered, 100 output tokens/s"):
        assert text in said
        assert any(text in line for _, line in shown)


def test_a_step_that_goes_on_is_told_of_with_what_it_tells():
    heard, enough = [], threading.Event()

    class Heard(Silent):
        def goes_on(self, step, seconds, amount):
            assert seconds >= 0.0
            heard.append((step, amount))
            if amount is not None:
                enough.set()

    with Aside(Heard(), pace_s=0.01) as told:
        told.begin("tokenize")
        tell(1, 2, "requests")
        assert enough.wait(60)
        told.end("tokenize", {})
        told.begin("plan")
    tell(2, 2, "requests")
    assert ("tokenize", Amount(1, 2, "requests")) in heard
    # It was of the step before.
    assert all(amount is None for step, amount in heard if step == "plan")


def test_progress_of_a_night_with_refused_rows_counts_what_there_is(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script")
    good = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(10)]
    bad = [batch_line(f"b{i}", f"Count from {i}", tools=[{"type": "function"}]) for i in range(5)]
    write_lines(tmp_path / "logs", "a.jsonl", good + bad)
    told: list[InferProgress] = []
    with opened(night_request(tmp_path, max_sequences=4), tmp_path / "scratch") as night:
        plan(night)
        infer(night, told.append)
    assert [(one.answered, one.requests) for one in (told[0], told[-1])] == [(0, 10), (10, 10)]
    assert all(0 <= one.answered <= one.requests for one in told)
    assert [told[0].phase, told[1].phase, told[-1].phase] == ["starting", "compiling", "answering"]
    # The start is in the one and not in the other.
    assert all(one.computing_seconds == 0.0 for one in told if one.phase != "answering")
    assert 0.0 < told[-1].computing_seconds < told[-1].seconds
