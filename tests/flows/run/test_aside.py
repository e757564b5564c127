"""Who is told of a night is told by a thread: however slow it is, the night goes on."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.run import prefect_tasks
from flows.run.aside import Aside
from flows.run.reporter import Silent
from flows.views.progress import FlowReporter
from tasks.infer.infer import infer
from tasks.infer.progress import InferProgress
from tasks.plan.plan import plan
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, night_request, opened, outputs_of, write_lines

PATIENCE_S = 60.0


def progress(answered: int) -> InferProgress:
    return InferProgress(answered, 1000, answered, float(answered))


class Heard(Silent):
    """Keeps what it hears; halted until `opened`, if asked."""

    def __init__(self, *, halted: bool = False) -> None:
        self.calls, self.begun, self.opened = [], threading.Event(), threading.Event()
        if not halted:
            self.opened.set()

    def _hear(self, *call: object) -> None:
        self.begun.set()
        assert self.opened.wait(PATIENCE_S)
        self.calls.append(call)

    def begin(self, step):
        self._hear("begin", step)

    def end(self, step, results):
        self._hear("end", step, results)

    def answered(self, progress):
        self._hear("answered", progress.answered)


def test_of_the_progress_that_nobody_could_hear_only_the_latest_is_told():
    heard = Heard(halted=True)
    with Aside(heard, pace_s=0.0) as told:
        told.begin("infer")
        assert heard.begun.wait(PATIENCE_S)
        for i in range(1000):
            told.answered(progress(i))
        told.end("infer", {})
        told.begin("publish")
        heard.opened.set()
    assert heard.calls == [("begin", "infer"), ("answered", 999), ("end", "infer", {}), ("begin", "publish")]


def test_progress_is_told_at_a_calm_pace_and_never_left_out_at_the_end():
    heard = Heard()
    with Aside(heard, pace_s=PATIENCE_S) as told:
        for i in range(1000):
            told.answered(progress(i))
    assert len(heard.calls) <= 2
    assert heard.calls[-1] == ("answered", 999)


def test_an_error_of_who_is_told_ends_the_night_as_before():
    class Fails(Silent):
        def answered(self, progress):
            raise ValueError(f"asked to at {progress.answered}")

    def tell_on(told: Aside) -> None:
        while True:
            told.answered(progress(1))

    with Aside(Fails(), pace_s=0.0) as told, pytest.raises(ValueError, match="asked to"):
        tell_on(told)


def test_messages_are_taken_while_nobody_can_be_told(tmp_path, monkeypatch):
    """A terminal that is halted, or an API that does not answer, from the begin of step infer to its end."""
    scripted_backend.use(monkeypatch, tmp_path / "script")
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(12)]
    write_lines(tmp_path / "logs", "a.jsonl", lines)
    heard = Heard(halted=True)
    with (
        opened(night_request(tmp_path, max_sequences=2), tmp_path / "scratch") as night,
        Aside(heard) as told,
    ):
        plan(night)
        told.begin("infer")
        infer(night, told.answered)
        assert heard.calls == []
        assert len(outputs_of(night)) == 12
        heard.opened.set()
    assert heard.calls[-1] == ("answered", 12)


@contextmanager
def an_api(status: int):
    """A server that refuses every call; yields its URL and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            # At once, for a client that tries again.
            self.send_header("Retry-After", "0")
            self.end_headers()

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_api_that_fails_is_asked_once_for_each_update_and_told_of_once(caplog, monkeypatch):
    monkeypatch.setattr("flows.views.progress.CALM_S", 0.0)
    log = logging.getLogger("test_aside")
    with an_api(503) as (url, asked), temporary_settings({PREFECT_API_URL: url}):
        reporter = FlowReporter(log, "triage")
        reporter.begin("infer")
        for i in range(3):
            reporter.answered(progress(i))
    # Each is refused before it is made: the client asks for a token first.
    assert len(asked) == 4
    said = [record.message for record in caplog.records if "API" in record.message]
    assert len(said) == 1
    assert "does not answer (PrefectHTTPStatusError)" in said[0]


@pytest.mark.parametrize("gone", ["at its begin", "at its end", "for ever"])
def test_a_slot_of_an_api_that_is_gone_costs_neither_answers_nor_time(caplog, monkeypatch, gone):
    never = threading.Event()

    @contextmanager
    def concurrency(_limit, **_):
        if gone == "at its begin":
            raise httpx.ConnectError("gone")
        yield
        if gone == "at its end":
            raise httpx.ConnectError("gone")
        never.wait(PATIENCE_S)

    monkeypatch.setattr(prefect_tasks, "concurrency", concurrency)
    monkeypatch.setattr(prefect_tasks, "current_pool", lambda: "gpus")
    monkeypatch.setattr(prefect_tasks, "BRIEF_S", 0.2)

    def infer_here(*_, place, limit):
        with limit:
            return {"place": place}

    monkeypatch.setattr(prefect_tasks, "infer_here", infer_here)
    assert prefect_tasks.infer_within_limit(SimpleNamespace()) == {"place": "gpu:gpus"}
    said = {"at its begin": "could not be asked for (ConnectError)", "at its end": "was not given back"}
    assert said.get(gone, "") in caplog.text

    def lost():
        with prefect_tasks.slot_of("gpu:gpus"):
            raise KeyError("of the step")

    with pytest.raises(KeyError, match="of the step"):
        lost()
    never.set()


@pytest.mark.usefixtures("prefect_api")
def test_a_slot_is_held_for_the_length_of_the_block_and_then_free():
    limit = f"gpu:{uuid4().hex}"
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit, limit=1))
        with prefect_tasks.slot_of(limit):
            assert client.read_global_concurrency_limit_by_name(limit).active_slots == 1
        assert client.read_global_concurrency_limit_by_name(limit).active_slots == 0
