"""An engine that dies of a request: it is named after few deaths, set aside, and all others are answered."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineError
from engine.job.running import RUNNING_FILE, RunningFile, read_running
from tasks.infer.backends import engine_process
from tasks.infer.infer import infer
from tasks.infer.progress import EngineFailedError, StoppedError
from tasks.infer.suspects import Suspects
from tasks.plan.plan import plan
from tasks.plan.work import load_work
from tests.support import scripted_backend
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines


class Night:
    """A night whose engines compute `width` requests at a time and die of some."""

    def __init__(self, count: int, poison: set[int], *, width: int, hidden: bool = False, seed: int = 0):
        self.open = [f"k{i}" for i in range(count)]
        self.poison = {f"k{i}" for i in poison}
        self.width, self.hidden, self.random = width, hidden, random.Random(seed)
        self.deaths, self.named = 0, []

    def run(self, restarts: int = 3) -> None:
        suspects = Suspects(restarts)
        while left := suspects.left(self.open):
            share = suspects.share(left)
            asked = list(left if share is None else share.keys)
            width = (share.max_sequences if share is not None else None) or self.width
            running, answered = self._engine(asked, width)
            self.open = [key for key in self.open if key not in answered]
            if answered:
                suspects.answered()
            if not running:
                suspects.ended()
            else:
                self.deaths += 1
                still = [key for key in asked if key not in answered]
                suspects.died("killed by signal 9", None if self.hidden else running, still)
            for culprit in suspects.culprits(nothing_left=not suspects.left(self.open)):
                self.named.append(culprit.key)
                self.open.remove(culprit.key)

    def _engine(self, asked: list[str], width: int) -> tuple[list[str], set[str]]:
        """Compute until it dies; return what it was computing then (else nothing), and what is answered."""
        waiting, running, answered = list(asked), [], set()
        self.random.shuffle(waiting)
        while waiting or running:
            while waiting and len(running) < width:
                running.append(waiting.pop())
            if self.poison & set(running):
                return running, answered
            answered.add(running.pop(self.random.randrange(len(running))))
        return [], answered


@settings(max_examples=300, deadline=None)
@given(
    st.integers(2, 300),
    st.sets(st.integers(0, 299), max_size=3),
    st.sampled_from([1, 2, 16, 17, 128, 256]),
    st.integers(0, 9),
)
def test_every_poison_is_named_alone_and_all_others_are_answered(count, poison, width, seed):
    poison = {i for i in poison if i < count}
    night = Night(count, poison, width=width, seed=seed)
    if len(poison) >= count - 1:
        return
    # Poison may be met in any order, so an engine can die of one and the next of another.
    try:
        night.run()
    except EngineFailedError:
        # Two died one after the other before anything else could be answered: as a broken engine does.
        assert len(poison) > 1
        return
    assert set(night.named) == {f"k{i}" for i in poison}
    assert night.open == []
    assert night.deaths <= 4 * len(poison)


@pytest.mark.parametrize("width", [1, 8, 128, 256])
def test_one_poison_of_many_takes_four_deaths_at_most(width):
    for seed in range(20):
        night = Night(2000, {1234}, width=width, seed=seed)
        night.run()
        assert (night.named, night.open) == (["k1234"], [])
        assert night.deaths <= 4


def test_an_engine_that_does_not_tell_what_it_computes_is_halved():
    for seed in range(5):
        night = Night(1000, {77}, width=64, hidden=True, seed=seed)
        night.run()
        assert (night.named, night.open) == (["k77"], [])
        assert night.deaths <= 2 + 10


def test_deaths_that_no_request_explains_stop_the_run_as_before():
    suspects, left = Suspects(3), [f"k{i}" for i in range(100)]
    for death in range(3):
        assert suspects.share(left) is None
        suspects.answered()
        suspects.died("killed by signal 9", left[:20], left)
        share = suspects.share(left)
        # What it was computing is tried by itself, and does no harm.
        assert (share is None) == (death == 0)
        if share is not None:
            assert share.max_sequences == 5
            left = [key for key in left if key not in share.keys]
            suspects.answered()
            suspects.ended()
            assert suspects.culprits(nothing_left=False) == []
    suspects.share(left)
    with pytest.raises(StoppedError, match="the engine died 4 times, last: killed by signal 9"):
        suspects.died("killed by signal 9", left[:20], left)


def test_without_restarts_the_first_death_stops_the_run():
    suspects = Suspects(0)
    suspects.answered()
    with pytest.raises(StoppedError, match="the engine died 1 times"):
        suspects.died("killed by signal 9", ["a"], ["a", "b"])


def test_an_engine_that_dies_of_whatever_it_computes_is_broken_and_blames_nobody():
    night = Night(100, set(range(100)), width=16)
    with pytest.raises(
        EngineFailedError, match=r"died \d+ times without an answer, last: killed by signal 9"
    ):
        night.run()
    assert night.named == []
    alone = Night(1, {0}, width=16)
    with pytest.raises(EngineFailedError):
        alone.run()


def test_an_engine_that_never_gets_ready_is_broken():
    suspects = Suspects(1)
    suspects.share(["a", "b"])
    suspects.died("killed by signal 11", [], ["a", "b"])
    with pytest.raises(EngineFailedError, match="died 2 times without an answer"):
        suspects.died("killed by signal 11", [], ["a", "b"])
    # Once: nobody can tell.
    with pytest.raises(StoppedError):
        Suspects(0).died("killed by signal 11", [], ["a", "b"])


def test_an_engine_that_says_why_it_ends_and_not_what_it_computed_may_go_on_another_time():
    suspects, left = Suspects(2), ["a", "b"]
    for _ in range(2):
        assert suspects.share(left) is None
        suspects.died("no server has answered", [], left, may_pass=True)
    with pytest.raises(StoppedError, match="died 3 times, last: no server has answered"):
        suspects.died("no server has answered", [], left, may_pass=True)


def test_the_file_of_what_is_computed(tmp_path):
    assert read_running(tmp_path) is None
    file = RunningFile(tmp_path, 4)
    assert read_running(tmp_path) == []
    for running in ([3, 1, 2], [7], []):
        file.write(np.array(running, np.int32))
        assert read_running(tmp_path) == running


# ---- whole steps infer -------------------------------------------------------------------------------------


def ids(night, *names: str) -> list[str]:
    return [row["request_id"] for row in load_work(night).rows if row["custom_id"] in names]


def asked(root, count: int = 40, **more):
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(count)]
    write_lines(root / "logs", "a.jsonl", lines)
    return night_request(root, **{"max_sequences": 20, **more})


@pytest.mark.parametrize("says", ["", "IndexError at decoder.py:7"])
def test_a_request_that_engines_die_of_becomes_an_error_row(tmp_path, monkeypatch, caplog, says):
    script = scripted_backend.use(monkeypatch, tmp_path / "script", says=says)
    request = asked(tmp_path)
    with opened(request, tmp_path / "scratch") as night:
        poison = ids(night, "r7", "r29")
        scripted_backend.change(script, dies=poison)
        results = answer(night)
        texts = outputs_of(night)
        assert texts.keys() == {f"r{i}" for i in range(40)} - {"r7", "r29"}
        assert results["engine_starts"] <= 1 + 4 * len(poison)
        errors = night.read_table("errors").to_pylist()
        assert {(row["custom_id"], row["code"], row["retryable"]) for row in errors} == {
            ("r7", "engine_error", False),
            ("r29", "engine_error", False),
        }
        why = says or "killed by signal 9"
        assert all(why in row["message"] for row in errors)
        assert sum(part.count for part in night.parts("errors")) == 2
        assert len(re.findall("the engine died of request", caplog.text)) == 2
        assert "Count from" not in caplog.text
    with opened(request, tmp_path / "again") as night:
        assert night.log.state.finished


def test_what_an_engine_said_counts_although_it_has_to_be_killed_then(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engine_process, "GRACE_S", 0.3)
    says = "IndexError at decoder.py:7"
    script = scripted_backend.use(monkeypatch, tmp_path / "script", says=says, lingers=True)
    with opened(asked(tmp_path, 6, max_sequences=2), tmp_path / "scratch") as night:
        scripted_backend.change(script, dies=ids(night, "r3"))
        answer(night)
        (error,) = night.read_table("errors").to_pylist()
        assert says in error["message"]
    assert "killed by signal" not in caplog.text


def test_an_engine_that_cannot_start_is_never_called_resumable(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", deaf=True)
    with opened(asked(tmp_path, 3, engine_restarts=1), tmp_path / "scratch") as night:
        plan(night)
        with pytest.raises(
            EngineFailedError, match="died 2 times without an answer, last: killed by signal 9"
        ):
            infer(night)
        assert night.parts("errors") == []


def test_our_own_engine_that_always_fails_before_it_is_there_is_never_called_resumable(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", hidden=True, early="it has no lock")
    with opened(asked(tmp_path, 3, engine_restarts=1), tmp_path / "scratch") as night:
        plan(night)
        with pytest.raises(EngineFailedError, match="without an answer, last: it has no lock"):
            infer(night)


def test_our_own_engine_tells_what_it_computes(tmp_path):
    with opened(asked(tmp_path, 3), tmp_path / "scratch") as night:
        answer(night)
        found = (night.scratch / "engine-0" / RUNNING_FILE).parent
        # At its last step at least one was still running.
        assert set(read_running(found)) & {0, 1, 2}


def test_a_busy_device_stops_the_run_and_is_no_wrong_usage(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script", busy="device cuda:0 is used by another engine")
    with opened(asked(tmp_path, 3), tmp_path / "scratch") as night:
        plan(night)
        with pytest.raises(StoppedError, match="used by another engine; run it again when that has ended"):
            infer(night)


def test_weights_that_are_cut_off_are_told_before_an_engine_starts(tmp_path, monkeypatch):
    scripted_backend.use(monkeypatch, tmp_path / "script")
    with opened(asked(tmp_path, 3), tmp_path / "scratch") as night:
        plan(night)
        night.model_dir = tmp_path / "model"
        night.model_dir.mkdir()
        (night.model_dir / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
        with pytest.raises(EngineError, match="its header says 24; it was not copied whole"):
            infer(night)
        assert not (tmp_path / "scratch" / "engine-0" / "engine.log").exists()
