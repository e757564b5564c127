"""Infer with a real engine process: killed, stopped, resumed, and reused; nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal

import pytest

from tasks.base.errors import ConfigurationError
from tasks.infer.progress import StoppedError
from tasks.infer.session import EngineSession
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines
from tests.support.engine_nights import recorded_engines

pytestmark = pytest.mark.slow


def lines(count: int, first: int = 0, **body) -> list[str]:
    settings = {"max_tokens": 24, "ignore_eos": True, **body}
    return [
        batch_line(f"r{i}", f"Count from {i} to {i + 9}", **settings) for i in range(first, first + count)
    ]


@pytest.fixture
def engines(monkeypatch):
    """Every engine process that was started."""
    return recorded_engines(monkeypatch)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    write_lines(root / "logs", "a.jsonl", lines(30))
    with opened(night_request(root), root / "scratch") as night:
        answer(night)
        return outputs_of(night)


def kill_after(engines, answers: int):
    """A progress callback that kills the first engine once so many answers are in."""
    killed = []

    def progress(seen) -> None:
        if seen.answered >= answers and not killed:
            killed.append(os.kill(engines[-1].process.pid, signal.SIGKILL))

    return progress


def test_a_killed_engine_is_replaced_and_every_request_answered_once(tmp_path, engines, expected):
    write_lines(tmp_path / "logs", "a.jsonl", lines(30))
    with opened(night_request(tmp_path, max_sequences=4), tmp_path / "scratch") as night:
        results = answer(night, kill_after(engines, 8))
        assert results["engine_starts"] == 2
        assert outputs_of(night) == expected


def test_after_too_many_deaths_the_run_stops_and_a_new_attempt_resumes_it(tmp_path, engines, expected):
    write_lines(tmp_path / "logs", "a.jsonl", lines(30))
    request = night_request(tmp_path, max_sequences=4, engine_restarts=0)
    with opened(request, tmp_path / "one") as night:
        with pytest.raises(StoppedError, match="killed by signal 9"):
            answer(night, kill_after(engines, 8))
        before = {part.name for part in night.parts("outputs")}
        assert before
    with opened(request, tmp_path / "two") as night:
        results = answer(night)
        assert before < {part.name for part in night.parts("outputs")}
        assert outputs_of(night) == expected
        assert results["finish_reasons"] == {"stop": 0, "length": 30}


def test_a_request_to_stop_ends_the_engine_with_its_answers_kept(tmp_path, engines):
    write_lines(tmp_path / "logs", "a.jsonl", lines(30))
    with opened(night_request(tmp_path, max_sequences=4), tmp_path / "scratch") as night:

        def progress(seen) -> None:
            if seen.answered >= 5 and night.log.state.stop_requested is None:
                night.log.request_stop("a test")

        with pytest.raises(StoppedError, match="asked to stop"):
            answer(night, progress)
        assert 5 <= len(outputs_of(night)) < 30
        assert engines[0].process.returncode == 4


def test_a_late_file_costs_only_its_own_requests(tmp_path, expected):
    write_lines(tmp_path / "logs", "a.jsonl", lines(30))
    with opened(night_request(tmp_path), tmp_path / "one") as night:
        answer(night)
        first_key = night.run_key
    write_lines(tmp_path / "logs", "b.jsonl", lines(4, 40))
    with opened(night_request(tmp_path), tmp_path / "two") as night:
        results = answer(night)
        assert night.run_key != first_key
        assert (results["reused_answers"], results["computed_answers"]) == (30, 4)
        assert outputs_of(night).items() > expected.items()


def test_a_changed_body_under_the_same_id_is_computed_again(tmp_path):
    sampled = {"temperature": 1.0}
    write_lines(tmp_path / "logs", "a.jsonl", [batch_line("r", "Count from 1 to 5", max_tokens=8, **sampled)])
    with opened(night_request(tmp_path), tmp_path / "one") as night:
        answer(night)
    write_lines(tmp_path / "logs", "a.jsonl", [batch_line("r", "Count from 2 to 9", max_tokens=8, **sampled)])
    with opened(night_request(tmp_path), tmp_path / "two") as night:
        assert answer(night)["reused_answers"] == 0


def test_equal_requests_share_an_answer_only_if_it_is_determined(tmp_path):
    same = [batch_line(f"g{i}", "Count from 1 to 5", max_tokens=8) for i in range(3)]
    drawn = [batch_line(f"s{i}", "Count from 1 to 5", max_tokens=8, temperature=1.5) for i in range(3)]
    seeded = [
        batch_line(f"e{i}", "Count from 1 to 5", max_tokens=8, temperature=1.5, seed=7) for i in range(3)
    ]
    write_lines(tmp_path / "logs", "a.jsonl", same + drawn + seeded)
    with opened(night_request(tmp_path), tmp_path / "scratch") as night:
        results = answer(night)
        texts = outputs_of(night)
    assert results["computed_answers"] == 1 + 3 + 1
    assert len({texts[f"g{i}"] for i in range(3)}) == len({texts[f"e{i}"] for i in range(3)}) == 1
    assert len(texts) == 9


def test_a_finished_run_opens_nothing_new_and_a_rerun_computes_again(tmp_path, expected):
    write_lines(tmp_path / "logs", "a.jsonl", lines(30))
    with opened(night_request(tmp_path), tmp_path / "one") as night:
        answer(night)
        first = night.attempt.id
    with opened(night_request(tmp_path), tmp_path / "two") as night:
        assert night.log.state.finished
        assert night.attempt.id == first
    with opened(night_request(tmp_path, rerun=True), tmp_path / "three") as night:
        assert answer(night)["reused_answers"] == 0
        assert outputs_of(night) == expected


def test_memory_too_small_for_one_request_is_refused_before_the_engine_starts(tmp_path, engines):
    write_lines(tmp_path / "logs", "a.jsonl", lines(2))
    with (
        opened(night_request(tmp_path, kv_tokens=32), tmp_path / "scratch") as night,
        pytest.raises(ConfigurationError, match="--kv-tokens: 32 is too small for the longest request"),
    ):
        answer(night)
    assert engines == []


def test_stop_strings_end_the_text_before_them(tmp_path):
    write_lines(
        tmp_path / "logs",
        "a.jsonl",
        [batch_line("r", "Count from 1 to 9", max_tokens=30, ignore_eos=True, stop=[" 4"])],
    )
    with opened(night_request(tmp_path), tmp_path / "scratch") as night:
        answer(night)
        assert outputs_of(night) == {"r": outputs_of(night)["r"].partition(" 4")[0]}
        assert night.read_table("outputs").to_pylist()[0]["finish_reason"] == "stop"


def test_an_interrupt_takes_in_what_the_engine_still_sends(tmp_path, monkeypatch):
    write_lines(tmp_path / "logs", "a.jsonl", lines(30))
    taken = []
    take = EngineSession.take

    def recorded(session, message):
        taken.append(message)
        take(session, message)

    def progress(seen) -> None:
        if seen.answered >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(EngineSession, "take", recorded)
    request = night_request(tmp_path, max_sequences=4, part_answers=1000)
    with opened(request, tmp_path / "scratch") as night:
        with pytest.raises(KeyboardInterrupt):
            answer(night, progress)
        assert taken[-1]["type"] == "stopped"
        sent = {item["request_id"] for m in taken if m["type"] == "answers" for item in m["items"]}
        assert sum(part.count for part in night.parts("outputs")) == len(sent) >= 4
