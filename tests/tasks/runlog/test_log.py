"""The run log on real stores: who may write, and what counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tasks.base.identity import digest_ids
from tasks.runlog.liveness import is_gone, this_process
from tasks.runlog.log import NotHandedOverError, RunIsLiveError, RunLog, StaleWriterError
from tasks.runlog.places import date_prefix, run_prefix
from tasks.runlog.records import Claim, LogFormatError, LogRecord, Owner, Step
from tasks.runlog.state import current_publication
from tasks.store.contract import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.store.contract import Store

PREFIX = run_prefix("job", "2026-01-02", "0123456789abcdef")


def make(store: Store, prefix: str = PREFIX, **settings: Any) -> RunLog:
    return RunLog(store, prefix, **{"lease_s": 30.0, "heartbeat_s": 0.1, "patience_s": 0.3} | settings)


def claim_as(store: Store, owner: Owner) -> None:
    """Claim as a process elsewhere would, which then never beats."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.runlog.log.this_process", lambda: owner)
        make(store).claim()


ELSEWHERE = Owner("another-host", 1, 1, "another-boot", "pid:[1]")


class Faulty:
    """A store whose conditional PUTs fail, applied or not, as told."""

    def __init__(self, store: Store, faults: list[str]) -> None:
        self._store = store
        self.faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "lost":
            raise StoreUnavailableError("made to fail before it was applied")
        created = self._store.put_if_absent(key, data)
        if fault == "applied":
            raise StoreUnavailableError("made to fail after it was applied")
        return False if fault == "refused" else created


def test_a_whole_run(store: Store, tmp_path: Path) -> None:
    log = make(store)
    assert log.refresh().epoch == 0
    file = tmp_path / "p"
    file.write_bytes(b"from a file")
    with log.hold(params={"note": "x"}):
        assert log.is_holder
        attempt = log.open_attempt(policy="blend", device="cpu")
        log.finish_step("extract", {"lines": 3})
        one = log.write_part("outputs", b"some", ext="jsonl", count=2, ids_digest=digest_ids(["b", "a"]))
        two = log.write_part("outputs", file, ext="jsonl", count=1, label="late")
        assert log.write_part("outputs", b"some", ext="jsonl", count=2) == one
        log.end_attempt("completed", 0, {"requests": 3})
        log.write_manifest()
    assert one.name == f"outputs/{one.sha256[:16]}.jsonl"
    assert two.name == f"outputs/late-{two.sha256[:16]}.jsonl"
    assert digest_ids(["a", "b"]) == one.ids_digest

    state = make(store).refresh()
    assert state == log.state
    assert state.attempt == attempt
    assert state.finished
    assert state.holder is None
    assert state.steps == {"extract": Step("extract", attempt.id, {"lines": 3})}
    assert state.parts_of("outputs") == [one, two]
    for part, content in ((one, b"some"), (two, b"from a file")):
        log.fetch_part(part, tmp_path / "q")
        assert (tmp_path / "q").read_bytes() == content
    view = json.loads(store.get(log.key("manifest.json")))
    assert view["parts"]["outputs"]["count"] == 3
    names = [info.key for info in store.list(f"{PREFIX}/log/")]
    assert names == [f"{PREFIX}/log/{seq:08d}.json" for seq in range(state.next_seq)]
    # The next one does not wait.
    with make(store).hold() as again:
        assert again.state.epoch == 2


def test_a_damaged_part_is_noticed(store: Store, tmp_path: Path) -> None:
    log = make(store)
    log.claim()
    part = log.write_part("outputs", b"good", ext="x", count=1)
    store.put(log.key(part.name), b"bad")
    with pytest.raises(LogFormatError, match=r"recorded content\. .*--rerun"):
        log.fetch_part(part, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    store.delete(log.key(part.name))
    with pytest.raises(LogFormatError, match=r"not there\. .*--rerun"):
        log.fetch_part(part, tmp_path / "x")


def test_objects_without_a_record_do_not_count(store: Store) -> None:
    log = make(store)
    store.put(log.key("outputs/stray.jsonl"), b"x")
    assert log.refresh().parts == {}


def test_only_one_of_many_claims_wins(store: Store) -> None:
    def claim(log: RunLog) -> bool:
        barrier.wait()
        try:
            log.claim()
        except RunIsLiveError:
            return False
        return True

    barrier = threading.Barrier(16)
    logs = [make(store, lease_s=30.0) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(claim, logs)) == 1
    assert make(store).refresh().next_seq == 1


def test_one_of_many_takeovers_holds_in_the_end(store: Store) -> None:
    make(store).claim()
    logs = [make(store) for _ in range(8)]
    for log in logs:
        log.refresh()
    barrier = threading.Barrier(8)

    def take(log: RunLog) -> bool:
        barrier.wait()
        try:
            log.claim(take_over=True)
        except RunIsLiveError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(take, logs))
    # Whoever looks only after another has won takes over that one: it asked to. But one holds in the end.
    assert won >= 1
    assert sum(writes(log) for log in logs) == 1


def writes(log: RunLog) -> bool:
    try:
        log.append(Step("probe"))
    except StaleWriterError:
        return False
    return True


def test_a_stale_writer_is_refused(store: Store) -> None:
    old, new = make(store), make(store)
    old.claim()
    old.finish_step("extract")
    new.claim(take_over=True)
    new.finish_step("profile")
    with pytest.raises(StaleWriterError, match=r"taken over by .* \(epoch 2\)"):
        old.write_part("outputs", b"late", ext="x", count=1)
    assert old.lost
    with pytest.raises(StaleWriterError):
        old.append(Step("plan"))
    with pytest.raises(StaleWriterError):
        old.refresh()
    old.release()
    state = make(store).refresh()
    assert set(state.steps) == {"extract", "profile"}
    assert state.parts == {}
    assert state.holder is not None
    assert new.is_holder


def test_writing_needs_a_claim(store: Store) -> None:
    with pytest.raises(StaleWriterError, match="not held"):
        make(store).append(Step("x"))
    log = make(store)
    log.claim()
    with pytest.raises(ValueError, match="claimed already"):
        log.claim()
    with pytest.raises(ValueError, match="kind must be"):
        log.write_part("weather", b"", ext="x", count=0)
    with pytest.raises(ValueError, match="status must be"):
        log.end_attempt("fine", 0)


@pytest.mark.parametrize(
    "faults", [["applied"], ["lost", "applied"], ["lost"], ["refused"], ["lost", "refused"]]
)
def test_an_ambiguous_failure_is_settled_by_the_nonce(store: Store, faults: list[str]) -> None:
    faulty = Faulty(store, [])
    log = make(faulty)
    faulty.faults = list(faults)
    log.claim()
    faulty.faults = list(faults)
    log.finish_step("extract", {"n": 1})
    assert faulty.faults == []
    state = make(store).refresh()
    assert state.next_seq == 2
    assert state.steps["extract"].results == {"n": 1}


def test_an_outage_ends_in_an_error_and_repeating_is_harmless(store: Store) -> None:
    faulty = Faulty(store, [])
    log = make(faulty)
    log.claim()
    faulty.faults = ["lost"] * 100
    with pytest.raises(StoreUnavailableError):
        log.write_part("outputs", b"x", ext="x", count=1)
    faulty.faults = []
    part = log.write_part("outputs", b"x", ext="x", count=1)
    assert make(store).refresh().parts_of("outputs") == [part]


def test_a_second_live_run_is_refused_clearly(store: Store) -> None:
    with make(store).hold():
        with pytest.raises(RunIsLiveError) as caught:
            make(store).claim()
        message = str(caught.value)
        assert f"pid {os.getpid()} on " in message
        assert PREFIX in message
        assert "--take-over" in message
        assert "\n" not in message
        # Waiting for it shows a new sign of life.
        with pytest.raises(RunIsLiveError):
            make(store).claim(wait=True)


def test_a_silent_owner_elsewhere_is_taken_over_after_the_lease(store: Store) -> None:
    # A lease of whole seconds: ages are whole on S3, and one of 1 may be the next tick of the clock.
    silent = time.monotonic()
    claim_as(store, ELSEWHERE)
    with pytest.raises(RunIsLiveError):
        make(store).claim()
    log = make(store, lease_s=1.0)
    began = time.monotonic()
    log.claim(wait=True)
    assert time.monotonic() - silent > 1
    assert time.monotonic() - began < 4
    assert log.state.epoch == 2


def test_the_holder_stays_alive_while_it_beats(store: Store) -> None:
    claim_as(store, ELSEWHERE)
    with make(store, lease_s=1.0).hold(take_over=True):
        for _ in range(4):
            time.sleep(0.4)
            with pytest.raises(RunIsLiveError):
                make(store, lease_s=1.0).claim()


def test_the_heartbeat_notices_a_take_over_and_a_stop(store: Store) -> None:
    old, new, other = make(store), make(store), make(store)
    assert not other.request_stop("nobody there")
    with old.hold():
        assert other.request_stop("please")
        wait_until(lambda: old.state.stop_requested is not None)
        old.finish_step("extract")
        new.claim(take_over=True)
        wait_until(lambda: old.lost)
        beat = store.get(old.key("heartbeat.json"))
        time.sleep(0.3)
        assert store.get(old.key("heartbeat.json")) == beat
    state = new.refresh()
    assert state.holder is not None
    assert state.stop_requested is None
    assert set(state.steps) == {"extract"}


def test_a_stop_between_appends_is_folded_in(store: Store) -> None:
    log = make(store)
    log.claim()
    assert make(store).request_stop("please")
    log.finish_step("extract")
    assert log.state.stop_requested is not None
    assert log.state == make(store).refresh()


def test_a_failed_heartbeat_does_not_end_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make(store)
    failures: list[int] = []
    real = store.put

    def put(key: str, data: bytes) -> None:
        if key.endswith("heartbeat.json") and len(failures) < 2:
            failures.append(1)
            raise StoreUnavailableError("made to fail")
        real(key, data)

    monkeypatch.setattr(store, "put", put)
    with log.hold():
        wait_until(lambda: store.exists(log.key("heartbeat.json")))
        log.finish_step("extract")
    assert len(failures) == 2


def test_an_error_in_the_block_releases_and_shows(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), make(store).hold():
        _ = 1 / 0
    assert make(store).refresh().holder is None
    faulty = Faulty(store, [])

    def fail_with_the_store_down() -> None:
        with make(faulty).hold():
            faulty.faults = ["lost"] * 100
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail_with_the_store_down()


CHILD = """
import sys, time
from tasks.runlog.log import RunLog
from tasks.store.open import open_store
log = RunLog(open_store(sys.argv[1]), sys.argv[2], lease_s=30.0, heartbeat_s=0.1)
with log.hold():
    log.write_part("outputs", b"x", ext="x", count=1)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holding_process(store: Store) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, store.uri, PREFIX]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            child.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_killed_owner_on_this_host_is_taken_over_at_once(store: Store) -> None:
    with holding_process(store) as child:
        with pytest.raises(RunIsLiveError, match=f"pid {child.pid} on "):
            make(store).claim()
        child.send_signal(signal.SIGKILL)
        # It is not reaped: a zombie has ended as well.
        began = time.monotonic()
        log = make(store)
        claim_soon(log)
        assert time.monotonic() - began < 5
        assert log.state.epoch == 2
        assert len(log.state.parts) == 1


def claim_soon(log: RunLog) -> None:
    """Claim as soon as the kernel has ended the process."""
    for _ in range(40):
        try:
            log.claim()
        except RunIsLiveError:
            time.sleep(0.05)
        else:
            return
    log.claim()


def test_who_is_gone() -> None:
    here = this_process()
    assert not is_gone(here)
    assert not is_gone(ELSEWHERE)
    if sys.platform.startswith("linux"):
        assert is_gone(replace(here, start_time=1))
        assert is_gone(replace(here, pid=2**22 + 1))
        for other in ({"boot_id": "x"}, {"pid_namespace": "x"}, {"host": "x"}, {"boot_id": ""}):
            assert not is_gone(replace(here, pid=2**22 + 1, **other))


def test_a_log_with_a_hole_is_refused(store: Store) -> None:
    log = make(store)
    log.claim()
    log.finish_step("extract")
    store.delete(log.key("log/00000000.json"))
    with pytest.raises(LogFormatError, match=r"00000000\.json is missing"):
        make(store).refresh()


def test_a_long_log_is_read_whole(store: Store) -> None:
    log = make(store)
    log.claim()
    for n in range(40):
        log.finish_step(f"s{n}")
    assert make(store).refresh() == log.state
    assert log.state.next_seq == 41


def test_two_threads_append_without_loss(store: Store) -> None:
    log = make(store)
    with log.hold(), ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda n: log.write_part("outputs", b"%d" % n, ext="x", count=1), range(20)))
    state = make(store).refresh()
    assert {part.name for part in parts} == set(state.parts)


def test_a_date_log_fences_publication(store: Store) -> None:
    prefix = date_prefix("job", "2026-01-02")
    first, second = make(store, prefix), make(store, prefix)
    first.claim()
    second.claim(take_over=True)
    second.publish("p2", run_key="k2", attempt_id="a2", details={"files": 3})
    with pytest.raises(StaleWriterError):
        first.refresh()
    with pytest.raises(StaleWriterError):
        first.publish("p1", run_key="k1", attempt_id="a1")
    current = current_publication(make(store, prefix).refresh())
    assert current is not None
    assert (current.publication_id, current.run_key, current.details) == ("p2", "k2", {"files": 3})
    assert make(store).refresh().next_seq == 0


def test_records_carry_epoch_nonce_and_utc(store: Store) -> None:
    log = make(store)
    log.claim()
    record = LogRecord.from_json(store.get(log.key("log/00000000.json")))
    assert isinstance(record.body, Claim)
    assert record.body.owner == this_process()
    assert record.epoch == 1
    assert record.at.endswith("+00:00")
    with pytest.raises(ValueError, match="key"):
        run_prefix("../other", "2026-01-02", "k")


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def beats(log: RunLog) -> bytes:
    return log.store.get(log.key("heartbeat.json"))


def beats_again(log: RunLog, before: bytes) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end and beats(log) == before:
        time.sleep(0.02)
    return beats(log) != before


def test_a_run_is_handed_over_and_taken_back(store: Store) -> None:
    ours, theirs = make(store), make(store)
    with ours.hold():
        attempt = ours.open_attempt()
        with ours.handing_over() as epoch:
            with theirs.hold_for(epoch, {"who": "them"}):
                theirs.finish_step("infer")
                with pytest.raises(StaleWriterError):
                    ours.append(Step("x"))
            # Not released: nobody else may come in between.
            holder = make(store).refresh().holder
            assert holder is not None
            assert isinstance(holder.body, Claim)
            assert holder.body.params == {"who": "them", "handed_epoch": epoch}
            ours.take_back()
        assert ours.is_holder
        assert ours.state.attempt == attempt
        assert "infer" in ours.state.steps
        before = beats(ours)
        assert beats_again(ours, before)
        ours.finish_step("publish")
    assert make(store).refresh().holder is None


def test_an_error_of_whom_it_was_handed_to_releases_the_run(store: Store) -> None:
    ours, theirs = make(store), make(store)
    with ours.hold():
        ours.open_attempt()
        with ours.handing_over() as epoch:
            with pytest.raises(ZeroDivisionError), theirs.hold_for(epoch):
                raise ZeroDivisionError
            ours.take_back()
        assert ours.is_holder


@pytest.mark.parametrize("lets_go", [False, True])
def test_a_run_is_not_taken_back_from_a_stranger(store: Store, lets_go: bool) -> None:
    ours, stranger = make(store), make(store)
    with ours.hold():
        ours.open_attempt()
        with ours.handing_over() as epoch:
            with stranger.hold(take_over=True):
                with pytest.raises(NotHandedOverError), make(store).hold_for(epoch):
                    pass
                stranger.open_attempt()
                if not lets_go:
                    with pytest.raises(StaleWriterError):
                        ours.take_back()
            if lets_go:
                with pytest.raises(StaleWriterError):
                    ours.take_back()
        assert not ours.is_holder
    # Its own release says nothing about a run that it has lost.
    assert make(store).refresh().epoch == 2


def test_a_run_can_be_handed_over_while_it_is_held_only(store: Store) -> None:
    ours = make(store)
    with pytest.raises(StaleWriterError), ours.handing_over():
        pass
    with ours.hold(), ours.handing_over() as epoch:
        pass
    with pytest.raises(NotHandedOverError), make(store).hold_for(epoch):
        pass
