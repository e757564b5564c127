"""What an attempt has computed is stored beside the engine: in order, within memory, never lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from tasks.base.identity import file_digest
from tasks.infer.infer import infer
from tasks.infer.session import EngineSession
from tasks.infer.uploads import Uploads
from tasks.plan.plan import plan
from tasks.runlog.log import RunLog, StaleWriterError
from tasks.store.contract import StoreUnavailableError
from tasks.store.folder import FolderStore
from tests.support import scripted_backend
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines
from tests.support.paths import ROOT

PATIENCE_S = 60.0
"""Of a test that would wait for ever on code that waits for the store."""


class Gate:
    """A store's write that is halted until the test lets it go on."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.opened.wait(PATIENCE_S)


def check_until_it_raises(uploads: Uploads) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        uploads.check()


def test_things_are_stored_in_order_while_others_are_taken():
    uploads, gate, stored = Uploads(), Gate(), []
    uploads.put(gate, 10)
    assert gate.begun.wait(PATIENCE_S)
    for i in range(5):
        uploads.put(lambda i=i: stored.append(i), 10)
    uploads.add(lambda: stored.append(5))
    assert stored == []
    gate.opened.set()
    uploads.close((lambda: stored.append(6), 10))
    assert stored == list(range(7))


def test_taking_waits_for_the_store_only_when_memory_says_so():
    uploads, gate, taken = Uploads(most_bytes=100), Gate(), []

    def take() -> None:
        for size in (60, 40, 1):
            uploads.put(lambda: None, size)
            taken.append(size)

    uploads.put(gate, 0)
    assert gate.begun.wait(PATIENCE_S)
    taking = threading.Thread(target=take)
    taking.start()
    taking.join(0.5)
    assert taken == [60, 40]
    gate.opened.set()
    taking.join(PATIENCE_S)
    assert taken == [60, 40, 1]
    # More than the limit by itself: it is taken when nothing else is held.
    uploads.close()
    large = Uploads(most_bytes=1)
    large.put(lambda: None, 100)
    large.close()


def test_the_first_error_is_raised_once_more_is_given_and_closing_tries_again():
    tries, stored = [], []

    def fails_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailableError("503")

    uploads = Uploads()
    uploads.put(fails_once, 1)
    with pytest.raises(StoreUnavailableError):
        check_until_it_raises(uploads)
    with pytest.raises(StoreUnavailableError):
        uploads.put(lambda: stored.append("not taken"), 1)
    uploads.close((lambda: stored.append("last"), 1))
    assert (len(tries), stored) == (2, ["last"])


def test_what_is_let_go_is_not_stored():
    uploads, gate, stored = Uploads(), Gate(), []
    uploads.put(gate, 1)
    uploads.put(lambda: stored.append(1), 1)
    assert gate.begun.wait(PATIENCE_S)
    gate.opened.set()
    uploads.abandon()
    uploads.close()
    assert len(stored) <= 1


# ---- whole steps infer -------------------------------------------------------------------------------------

COUNT = 30


@pytest.fixture(autouse=True)
def _played(monkeypatch, tmp_path):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.01)


def lines() -> list[str]:
    settings = {"max_tokens": 24, "ignore_eos": True}
    return [batch_line(f"r{i}", f"Count from {i} to {i + 9}", **settings) for i in range(COUNT)]


def asked(root, **settings):
    write_lines(root / "logs", "a.jsonl", lines())
    return night_request(root, max_sequences=4, **settings)


def on_outputs(monkeypatch, act) -> None:
    """Have `act(store, key, path, put_file)` in the place of storing a part of answers."""
    put_file = FolderStore.put_file

    def put(store, key, path):
        if "/outputs/" in key:
            act(store, key, path, put_file)
        else:
            put_file(store, key, path)

    monkeypatch.setattr(FolderStore, "put_file", put)


def whole(root, request) -> dict[str, str]:
    """Answer what is left in a new attempt, look at every recorded part, and return all answers."""
    with opened(request, root / "again") as night:
        answer(night)
        for part in night.log.state.parts.values():
            assert file_digest(night.fetch(part)) == part.sha256
        return outputs_of(night)


def test_messages_are_taken_while_a_part_is_being_stored(tmp_path, monkeypatch):
    take, all_answered, meanwhile = EngineSession.take, threading.Event(), []
    writing = threading.Event()

    def taken(session, message):
        take(session, message)
        if writing.is_set():
            meanwhile.append(message["type"])
        if message["type"] == "done":
            all_answered.set()

    def slow(store, key, path, put_file):
        writing.set()
        # Until the engine has ended: code that waits for the store waits in vain.
        all_answered.wait(10)
        put_file(store, key, path)

    monkeypatch.setattr(EngineSession, "take", taken)
    on_outputs(monkeypatch, slow)
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        plan(night)
        infer(night)
        assert all_answered.is_set()
        assert {"step", "answers", "done"} <= set(meanwhile)
        assert len(meanwhile) > 10
        assert len(outputs_of(night)) == COUNT


def test_a_store_that_fails_ends_the_step_with_its_error_and_loses_nothing(tmp_path, monkeypatch):
    failed = []

    def fails(store, key, path, put_file):
        if len(failed) < 1:
            failed.append(key)
            raise StoreUnavailableError("503")
        put_file(store, key, path)

    on_outputs(monkeypatch, fails)
    request = asked(tmp_path)
    with opened(request, tmp_path / "scratch") as night:
        plan(night)
        with pytest.raises(StoreUnavailableError, match="503"):
            infer(night)
        # Tried once more at the end, with everything that had been answered by then.
        assert len(outputs_of(night)) >= 5
        assert "infer" not in night.log.state.steps
    assert len(whole(tmp_path, request)) == COUNT


def test_a_store_that_goes_on_failing_records_nothing_that_is_not_there(tmp_path, monkeypatch):
    def fails(*_):
        raise StoreUnavailableError("503")

    request = asked(tmp_path)
    with monkeypatch.context() as patched:
        on_outputs(patched, fails)
        with opened(request, tmp_path / "scratch") as night:
            plan(night)
            with pytest.raises(StoreUnavailableError, match="503"):
                infer(night)
            assert night.parts("outputs") == []
    assert len(whole(tmp_path, request)) == COUNT


def test_a_run_that_is_taken_over_while_a_part_is_stored_records_nothing_more(tmp_path, monkeypatch):
    request = asked(tmp_path)
    with monkeypatch.context() as patched, opened(request, tmp_path / "scratch") as night:

        def take_over(store, key, path, put_file):
            put_file(store, key, path)
            other = RunLog(store, night.log.prefix)
            if other.refresh().epoch == 1:
                other.claim(take_over=True)
                other.release()

        on_outputs(patched, take_over)
        plan(night)
        with pytest.raises(StaleWriterError):
            infer(night)
        assert not night.log.is_holder
        assert night.parts("outputs") == []
    assert len(whole(tmp_path, request)) == COUNT


KILLED = """
import os, sys
from pathlib import Path
import pytest
from tasks.store.folder import FolderStore
from tests.support import scripted_backend
from tests.support.demo_nights import answer, opened
from tests.tasks.infer.test_uploads import asked

root = Path(sys.argv[1])
scripted_backend.use(pytest.MonkeyPatch(), root / "played", step_s=0.05)
put_file, stored = FolderStore.put_file, []

def put(store, key, path):
    put_file(store, key, path)
    stored.append(key)
    if sum("/outputs/" in key for key in stored) == 2:
        os._exit(9)

FolderStore.put_file = put
with opened(asked(root), root / "scratch") as night:
    answer(night)
"""


def test_a_kill_between_a_part_and_its_record_loses_that_part_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False, timeout=120)
    assert done.returncode == 9
    request = asked(tmp_path)
    (run,) = (tmp_path / "store" / "t" / "runs").glob("run_date=*/*")
    log = RunLog(FolderStore(tmp_path / "store"), str(run.relative_to(tmp_path / "store")))
    recorded = log.refresh().parts_of("outputs")
    assert len(recorded) == 1
    assert len(list((run / "outputs").iterdir())) == 2
    assert len(whole(tmp_path, request)) == COUNT
