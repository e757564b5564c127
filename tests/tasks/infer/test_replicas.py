"""Several engines that share the requests of a run: every request once, whatever dies."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from engine.cost.devices import devices_from
from tasks.infer import fleet
from tasks.infer import replica as replica_module
from tasks.infer.backends import engine_process
from tasks.infer.infer import infer
from tasks.infer.part_writer import PartWriter
from tasks.infer.progress import StoppedError
from tasks.infer.replica import LEAST_LEFT, Replica
from tasks.infer.session import Intake
from tasks.plan.plan import FIRST_FOLDER, plan
from tasks.plan.shares import divide_job
from tasks.plan.work import load_work
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, night_request, opened, outputs_of, write_lines
from tests.support.engine_nights import recorded_engines

COUNT = 40


@pytest.fixture
def engines(monkeypatch):
    """Every engine process that was started."""
    return recorded_engines(monkeypatch)


def asked(root, **more):
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(COUNT)]
    write_lines(root / "logs", "a.jsonl", lines)
    return night_request(root, **{"max_sequences": 2, **more})


def compute(night, replicas: int, on_progress=None) -> dict:
    plan(night)
    return infer(night, on_progress, places=[engine_process.Here("cpu")] * replicas)


def texts_of(night) -> dict[str, str]:
    """custom_id -> text, as the scripted engine answers; each request exactly once."""
    found = outputs_of(night)
    names = {row["custom_id"]: row["request_id"] for row in load_work(night).rows}
    assert found == {name: f"answer to {names[name][:8]}" for name in found}
    return found


def uneven(monkeypatch, few: int) -> None:
    """Have the first replica begin with so many requests, and the others with the rest."""
    calls = []

    def divided(night, work, folder, keys, parts):
        calls.append(parts)
        if len(calls) > 1:
            return divide_job(night, work, folder, keys, parts)
        keys = list(keys)
        return [keys[:few], *([keys[few:]] if parts == 2 else divide_job(night, work, folder, keys[few:], 1))]

    monkeypatch.setattr(fleet, "divide_job", divided)


def test_replicas_share_the_requests_alike(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script")
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 3)
        assert texts_of(night).keys() == {f"r{i}" for i in range(COUNT)}
        assert (results["replicas"], results["engine_starts"]) == (3, 3)
        steps = Counter(row["replica"] for row in night.read_table("steps").to_pylist())
        # A step has two requests, and an answer takes two steps.
        assert steps.keys() == {0, 1, 2}
        assert max(steps.values()) <= 1.3 * min(steps.values())


def test_more_replicas_than_requests_start_only_those_that_are_needed(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script")
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(2)]
    write_lines(tmp_path / "logs", "a.jsonl", lines)
    with opened(night_request(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 5)
        assert texts_of(night).keys() == {"r0", "r1"}
        assert results["engine_starts"] <= 2


@pytest.mark.parametrize("victims", [1, 2])
def test_replicas_that_are_killed_lose_nothing(tmp_path, monkeypatch, engines, victims):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02)
    killed = []

    def kill(seen) -> None:
        if seen.answered >= 6 and not killed:
            killed.extend(engines[:victims])
            for one in killed:
                os.kill(one.process.pid, signal.SIGKILL)

    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 3, kill)
        assert len(texts_of(night)) == COUNT
        assert results["engine_starts"] == 3 + victims
        assert night.read_table("errors").num_rows == 0


def test_a_request_that_engines_die_of_is_set_aside_and_all_others_are_answered(tmp_path, monkeypatch):
    script = scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.01)
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        poison = [row["request_id"] for row in load_work(night).rows if row["custom_id"] == "r7"]
        scripted_backend.change(script, dies=poison)
        compute(night, 2)
        assert texts_of(night).keys() == {f"r{i}" for i in range(COUNT)} - {"r7"}
        assert [row["custom_id"] for row in night.read_table("errors").to_pylist()] == ["r7"]


def test_a_replica_that_has_finished_takes_part_of_what_a_dead_one_left(tmp_path, monkeypatch, engines):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02)
    uneven(monkeypatch, 4)
    killed = []

    def kill(_seen) -> None:
        if len(engines) == 2 and not killed and engines[0].process.poll() is not None and engines[0].ended:
            killed.append(os.kill(engines[1].process.pid, signal.SIGKILL))

    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 2, kill)
        assert killed
        assert len(texts_of(night)) == COUNT
        # The first one was started again, too.
        assert results["engine_starts"] == 4
        helped = [row for row in night.read_table("steps").to_pylist() if row["replica"] == 0]
        assert len(helped) > 4


def test_a_replica_that_has_finished_takes_half_of_what_waits_in_another(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02, gives=True)
    uneven(monkeypatch, 2)
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 2)
        assert len(texts_of(night)) == COUNT
        assert results["moves"] >= 1
        # Of 38 some were running or answered; a move is of half of those that wait.
        assert 8 <= results["moved_requests"] < COUNT
        assert results["engine_starts"] == 2 + results["moves"]
        steps = Counter(row["replica"] for row in night.read_table("steps").to_pylist())
        assert min(steps.values()) > 8


def test_two_that_have_finished_are_helped_by_what_has_most_left(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02, gives=True)
    monkeypatch.setattr(replica_module, "LEAST_LEFT", 6)
    monkeypatch.setattr(fleet, "divide_job", lambda _n, _w, _f, keys, _p: [keys[:1], keys[1:2], keys[2:]])
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 3)
        assert len(texts_of(night)) == COUNT
        assert results["moves"] >= 2
        steps = Counter(row["replica"] for row in night.read_table("steps").to_pylist())
        assert min(steps.values()) > 2


def test_no_engine_is_asked_that_cannot_give_or_has_little_left(tmp_path, monkeypatch):
    questions = []
    monkeypatch.setattr(engine_process.EngineProcess, "ask_to_give", questions.append)
    for few, gives in ((2, False), (COUNT - LEAST_LEFT + 1, True)):
        root = tmp_path / str(few)
        with monkeypatch.context() as patch:
            scripted_backend.use(patch, root / "script", step_s=0.01, gives=gives)
            uneven(patch, few)
            with opened(asked(root), root / "scratch") as night:
                results = compute(night, 2)
                assert len(texts_of(night)) == COUNT
                assert (results["moves"], results["moved_requests"], results["engine_starts"]) == (0, 0, 2)
    assert questions == []


def test_a_replica_alone_is_never_asked(tmp_path, monkeypatch):
    questions = []
    monkeypatch.setattr(engine_process.EngineProcess, "ask_to_give", questions.append)
    scripted_backend.use(monkeypatch, tmp_path / "script", gives=True)
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 1)
        assert len(texts_of(night)) == COUNT
    assert (results["moves"], results["engine_starts"], questions) == (0, 1, [])


def test_an_engine_that_dies_of_the_question_loses_nothing(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02, gives=True, dies_asked=True)
    uneven(monkeypatch, 2)
    with opened(asked(tmp_path, engine_restarts=9), tmp_path / "scratch") as night:
        results = compute(night, 2)
        assert len(texts_of(night)) == COUNT
        assert night.read_table("errors").num_rows == 0
        # What the dead one left lies idle, and is shared as before.
        assert results["moved_requests"] > 0
        assert results["engine_starts"] > 3


def test_what_is_given_when_nobody_rests_any_more_is_answered_by_the_giver(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02, gives=True)
    uneven(monkeypatch, 2)
    monkeypatch.setattr(fleet.Fleet, "_resting", lambda self: self.replicas[:1] if not self.moves else [])
    monkeypatch.setattr(fleet.Fleet, "_pass_on", lambda self, *_: setattr(self, "moves", 1))
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        results = compute(night, 2)
        assert len(texts_of(night)) == COUNT
        assert results["engine_starts"] == 3


def test_too_many_deaths_of_one_stop_all_and_a_new_attempt_goes_on(tmp_path, monkeypatch, engines):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.02)
    killed = []

    def kill(seen) -> None:
        if seen.answered >= 6 and not killed:
            killed.append(os.kill(engines[1].process.pid, signal.SIGKILL))

    request = asked(tmp_path, engine_restarts=0)
    with opened(request, tmp_path / "one") as night:
        with pytest.raises(StoppedError, match="killed by signal 9"):
            compute(night, 2, kill)
        assert all(one.process.poll() is not None for one in engines)
        before = len(outputs_of(night))
        assert before >= 6
    with opened(request, tmp_path / "two") as night:
        compute(night, 3)
        assert len(texts_of(night)) == COUNT


@pytest.mark.parametrize("how", ["request", "exception"])
def test_a_stop_ends_all_replicas_with_their_answers_kept(tmp_path, monkeypatch, engines, how):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.05)
    stopped = []

    def stop(seen) -> None:
        if seen.answered >= 4 and not stopped:
            stopped.append(time.monotonic())
            if how == "exception":
                raise KeyboardInterrupt
            night.log.request_stop("a test")

    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        with pytest.raises(StoppedError if how == "request" else KeyboardInterrupt):
            compute(night, 2, stop)
        assert len(engines) == 2
        assert [one.process.returncode for one in engines] == [4, 4]
        assert 4 <= len(texts_of(night)) < COUNT


def test_messages_of_an_older_engine_are_dropped(tmp_path, monkeypatch, caplog):
    scripted_backend.use(monkeypatch, tmp_path / "script", step_s=0.05)
    with opened(asked(tmp_path), tmp_path / "scratch") as night:
        plan(night)
        work = load_work(night)
        writer = PartWriter(night, work)
        intake = Intake(night, work, writer)
        replica = Replica(night, intake, 1, engine_process.Here("cpu"), has_worked=False)
        replica.add(work.open_keys())
        arrived = fleet.threading.Event()
        late = {"type": "answers", "items": [answer_item(work, 0)]}
        try:
            replica.begin(night.scratch / FIRST_FOLDER, "unused", arrived)
            replica.close()
            assert not replica.take(1, late)
            replica.begin(None, "second", arrived)
            assert replica.epoch == 2
            assert not replica.take(1, late)
            assert work.done == 0
            assert replica.take(2, late)
            assert work.done == 1
        finally:
            replica.close()
            intake.close()
            writer.close()
    assert "a message of engine 1 came after its end" in caplog.text


def answer_item(work, i: int) -> dict:
    return {
        "request_id": work.rows[i]["request_id"],
        "choice": 0,
        "token_ids": [1, 2],
        "text": "late",
        "finish_reason": "stop",
        "cached_tokens": 0,
        "started_at": 0.0,
        "finished_at": 1.0,
        "logprobs": None,
    }


def test_what_replicas_compute_on():
    assert devices_from("cpu", 3) == ("cpu", "cpu", "cpu")
    assert devices_from("cuda:2", 3) == ("cuda:2", "cuda:3", "cuda:4")


@pytest.mark.slow
def test_answers_of_killed_replicas_of_our_own_engine_equal_those_of_one_process(tmp_path, engines):
    killed = []

    def kill(seen) -> None:
        if seen.answered >= 6 and not killed:
            killed.append(os.kill(engines[-1].process.pid, signal.SIGKILL))

    found = []
    for replicas in (1, 2):
        root = tmp_path / str(replicas)
        engines.clear()
        with opened(asked(root), root / "scratch") as night:
            results = compute(night, replicas, kill if replicas > 1 else None)
            found.append(outputs_of(night))
    # Of those that a replica without work took it starts one more.
    assert results["engine_starts"] == 3 + results["moves"]
    assert len(found[0]) == COUNT
    assert found[1] == found[0]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_answers_that_moved_equal_those_of_one_process(tmp_path, monkeypatch, engines, killed):
    """The second of our own engines is held until the first one has nothing left; then it gives, or dies."""
    with opened(asked(tmp_path / "1"), tmp_path / "1" / "scratch") as night:
        compute(night, 1)
        expected = outputs_of(night)
    engines.clear()
    uneven(monkeypatch, 2)
    held, freed = [], []
    taken = Replica.take

    def take(self, epoch, message):
        if self.number == 1 and message["type"] == "ready" and not held:
            held.append(os.kill(self.engine.process.pid, signal.SIGSTOP))
        return taken(self, epoch, message)

    def free(_seen) -> None:
        if held and not freed and engines[0].ended:
            # A question waits for it, or comes.
            freed.append(os.kill(engines[1].process.pid, signal.SIGKILL if killed else signal.SIGCONT))

    monkeypatch.setattr(Replica, "take", take)
    with opened(asked(tmp_path / "2"), tmp_path / "2" / "scratch") as night:
        results = compute(night, 2, free)
        found = outputs_of(night)
    assert freed
    assert len(expected) == COUNT
    assert found == expected
    assert results["moves"] >= 1
    assert results["moved_requests"] >= 4
    assert results["engine_starts"] >= 3
