"""A date of which some requests failed: what failed is answered again, what was answered stays as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.commands.retry import changed
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.base.errors import ConfigurationError, ErrorCode, RequestError
from tasks.infer.part_writer import PartWriter
from tasks.operations.dates import view_date
from tasks.plan.work import load_work
from tasks.runlog.log import RunLog
from tasks.store.folder import FolderStore
from tests.support.dated_nights import FIRST, answer, instead, night_of
from tests.support.demo_nights import batch_line, write_lines

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.night.night import Night

UNSUPPORTED = {"tools": [{"type": "function"}]}
LINES = [
    batch_line("short", "Count from 1 to 3."),
    batch_line("twice", "Count from 2 to 4.", max_tokens=7),
    batch_line("same", "Count from 2 to 4.", max_tokens=7),
    batch_line("sampled", "Count from 3 to 5.", temperature=0.5),
    batch_line("tools", "Count from 4 to 6.", **UNSUPPORTED),
    batch_line("dies", "Count from 5 to 7."),
    json.dumps({"custom_id": "moderation", "url": "/v1/moderations", "body": {"input": "x"}}),
]


VECTORS = [[0.6, -0.8], [1.0, 0.0]]


def infer_with(failing: Collection[str], said: str) -> Any:
    """Return a step infer that answers with `said` and the prompt's length, and fails for some names."""

    def infer(night: Night, _: object) -> dict[str, Any]:
        work = load_work(night)
        writer = PartWriter(night, work)
        for key in work.open_keys():
            row = work.rows[work.members[key][0]]
            if row["custom_id"] in failing:
                writer.add_error(key, RequestError(ErrorCode.ENGINE_ERROR, None, "it died", retryable=True))
            else:
                text = f"{said} {row['custom_id']}"
                made = (
                    {"text": "", "embeddings": VECTORS} if row["endpoint"] == "embeddings" else {"text": text}
                )
                writer.add_answer(key, answer(night, row["input_tokens"]) | made)
        writer.close()
        night.log.finish_step("infer", {"seconds": 1.0, "output_tokens": 3, "input_tokens": 9})
        return {}

    return infer


def run(root: Path, failing: Collection[str] = (), said: str = "first", **given: Any) -> dict[str, Any]:
    from dataclasses import replace

    steps = replace(instead(), infer=infer_with(failing, said))
    parameters = night_of(root, run_date=FIRST, **given)
    return run_night(night_request(parameters), steps=steps)


def lines(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the lines of outputs and errors by name; every name is there once."""
    found = []
    for name in ("output_file", "error_file"):
        rows = [json.loads(line) for line in Path(result[name]).read_text().splitlines()]
        found.append({row["custom_id"]: row for row in rows})
        assert len(found[-1]) == len(rows)
    assert not found[0].keys() & found[1].keys()
    return found[0], found[1]


def rows_of(result: dict[str, Any], names: Collection[str]) -> list[dict[str, Any]]:
    table = pq.read_table(Path(result["folder"]) / "outputs.parquet").to_pylist()
    return sorted((row for row in table if row["custom_id"] in names), key=lambda row: row["custom_id"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lines(tmp_path / "logs" / FIRST.isoformat(), "day.jsonl", LINES)
    return tmp_path


def test_embeddings_are_made_once_the_job_says_how_and_are_kept_like_answers(root: Path) -> None:
    line = {"custom_id": "vectors", "url": "/v1/embeddings", "body": {"model": "e", "input": ["a", "b"]}}
    write_lines(root / "logs" / FIRST.isoformat(), "more.jsonl", [json.dumps(line)])
    first = run(root, {"dies"})
    refused = lines(first)[1]["vectors"]["error"]
    assert (refused["code"], refused["param"]) == ("unsupported_by_model", "url")
    assert "--pooling" in refused["message"]
    again = run(root, {"dies"}, "again", failed_only=True, pooling="mean")
    assert again["run_key"] != first["run_key"]
    data = lines(again)[0]["vectors"]["response"]["body"]["data"]
    assert [one["embedding"] for one in data] == [pytest.approx(vector) for vector in VECTORS]
    third = run(root, (), "third", failed_only=True, pooling="last")
    assert lines(third)[0]["dies"]["response"]["body"]["choices"][0]["message"]["content"] == "third dies"
    # Kept as they are, though they would be made otherwise now.
    assert lines(third)[0]["vectors"] == lines(again)[0]["vectors"]
    assert rows_of(third, {"vectors"}) == rows_of(again, {"vectors"})


ALWAYS = {"tools", "moderation"}
"""Refused while the log is read, whatever the settings."""


def test_what_failed_is_answered_and_what_was_answered_stays(root: Path) -> None:
    first = run(root, {"dies", "sampled"})
    assert (first["requests"], first["outputs"], first["errors"], first["exit_code"]) == (7, 3, 4, 3)
    # Other settings, among them one that all keys of answers have in them.
    again = run(root, {"dies"}, "again", failed_only=True, max_tokens=99, temperature=0.25)
    assert (again["requests"], again["outputs"], again["errors"]) == (7, 4, 3)
    assert again["run_key"] != first["run_key"]
    before, after = lines(first)[0], lines(again)[0]
    assert {name: after[name] for name in before} == before
    assert rows_of(again, before) == rows_of(first, before)
    assert after["sampled"]["response"]["body"]["choices"][0]["message"]["content"] == "again sampled"
    assert {row["run_key"] for row in rows_of(again, {"sampled"})} == {again["run_key"]}
    # A second failure stays an error.
    errors = lines(again)[1]
    assert errors.keys() == {"dies"} | ALWAYS
    assert errors["dies"]["error"]["code"] == "engine_error"
    current = view_date(FolderStore(root / "store"), "triage", FIRST, lease_s=2.0).current
    assert current is not None
    assert current.publication_id == again["publication_id"]

    third = run(root, (), "third", failed_only=True)
    assert (third["outputs"], third["errors"]) == (5, 2)
    assert {name: lines(third)[0][name] for name in after} == after
    assert rows_of(third, after) == rows_of(again, after)
    # The night itself, asked for once more, is what it has become.
    for settings in ({}, {"failed_only": False}):
        once_more = run(root, (), "never", **settings)
        assert once_more["publication_id"] == third["publication_id"]
        assert once_more["reused"]
    assert run(root, (), "never", force=True)["publication_id"] == first["publication_id"]


def test_a_request_that_has_changed_or_is_new_is_answered_too(root: Path) -> None:
    run(root, {"dies"})
    other = [batch_line("short", "Count from 8 to 9."), *LINES[1:], batch_line("new", "Count from 1 to 2.")]
    write_lines(root / "logs" / FIRST.isoformat(), "day.jsonl", other)
    again = lines(run(root, (), "again", failed_only=True))[0]
    said = {name: row["response"]["body"]["choices"][0]["message"]["content"] for name, row in again.items()}
    assert said == {
        "short": "again short",
        "new": "again new",
        "dies": "again dies",
        "twice": "first twice",
        "same": "first twice",
        "sampled": "first sampled",
    }


def test_the_model_of_an_answer_is_told_where_another_one_answers_the_rest(root: Path) -> None:
    from tests.support.paths import DEMO_MODEL

    first = run(root, {"dies"})
    other = root / "another-model"
    other.mkdir()
    for file in DEMO_MODEL.iterdir():
        os.link(file, other / file.name)
    again = lines(run(root, (), failed_only=True, model=str(other)))[0]
    models = {name: row["response"]["body"]["model"] for name, row in again.items()}
    own = next(iter(lines(first)[0].values()))["response"]["body"]["model"]
    assert models.pop("dies") == "another-model"
    assert set(models.values()) == {own}


def test_a_retry_that_was_killed_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(root, {"dies", "short"})
    finish = RunLog.finish_step

    def killed(log: RunLog, name: str, *given: Any, **more: Any) -> Any:
        if name == "tokenize":
            # Its parts are written; that they count is not recorded.
            raise KeyboardInterrupt
        return finish(log, name, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "finish_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(root, (), "killed", failed_only=True)
    again = run(root, (), "again", failed_only=True)
    assert (again["outputs"], again["errors"]) == (5, 2)
    before = lines(first)[0]
    assert rows_of(again, before) == rows_of(first, before)
    # Publishing it alone was missing: nothing is computed for that.
    assert not again["reused"]


def test_nothing_to_retry_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["retry", "--job", "triage", "--store", str(root / "store"), "--run-date", str(FIRST)]
    assert main(asked) == 2
    assert "nothing is published" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="--failed-only"):
        run(root, failed_only=True)
    write_lines(root / "logs" / FIRST.isoformat(), "day.jsonl", LINES[:4])
    run(root)
    with pytest.raises(ConfigurationError, match="no request of"):
        run(root, failed_only=True)
    assert main(asked) == 0
    assert "nothing has failed" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == 4


def test_the_command_asks_for_the_night_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, {"dies"}, part_answers=7, model_filter=["m*"])
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("flows.commands.run.execute", lambda options: asked.append(options) or 0)
    typed = ["retry", "--job", "triage", "--store", str(root / "store"), "--run-date", str(FIRST)]
    assert main([*typed, "--max-tokens", "99", "--json"]) == 0
    (options,) = asked
    assert options["source"].endswith("/logs/{run_date}/")
    assert (options["part_answers"], options["model_filter"], options["max_tokens"]) == ("7", ["m*"], "99")
    assert options["failed_only"]
    assert (options["json"], options["run_date"]) == (True, str(FIRST))


def test_another_engine_does_not_get_the_options_of_the_one_before() -> None:
    before = {"engine": "endpoint", "engine_option": ["url=x"], "max_in_flight": 3, "max_tokens": 5}
    assert changed(before, {"engine": "native"}) == {"engine": "native", "max_tokens": 5}
    assert changed(before, {"max_tokens": 6}) == before | {"max_tokens": 6}
    given = {"engine": "endpoint", "engine_option": ["url=y"]}
    assert changed({"device": "cuda", "source": "s"}, given) == given | {"source": "s"}
