from __future__ import annotations

import io
import json
import logging
from datetime import date
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from tasks.base.errors import ConfigurationError
from tasks.extract.examine import LOOKED_AT, Examination, examine
from tasks.extract.readers.registry import READERS
from tests.support.log_samples import EXPECTED, FORMAT, SAMPLES, TABLES_OF_TEXT

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "the prompt nobody may read"


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def look(tmp_path: Path, data: bytes, file: str = "day.jsonl", **options: Any) -> Examination:
    (tmp_path / file).write_bytes(data)
    return examine(str(tmp_path / file), **options)


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {
        "custom_id": text,
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": text}]},
    } | more


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in TABLES_OF_TEXT])
def test_the_samples_are_told_from_each_other(tmp_path: Path, name: str) -> None:
    found = look(tmp_path, lines(SAMPLES[name]))
    (one,) = found.objects
    reader = READERS[FORMAT.get(name, name)]
    # Traces have other spans, too; batches lines that are broken.
    alike = sum(map(reader.matches, SAMPLES[name]))
    assert alike >= len(SAMPLES[name]) - 1
    # A line for `/v1/responses` has the envelope of the others.
    also = ("openai-batch",) if name == "openai-responses" else ()
    assert (one.format, one.title, one.also, one.remark) == (reader.name, reader.title, also, "")
    assert one.how_sure == ("sure" if alike == len(SAMPLES[name]) else "likely")
    assert (one.looked_at, one.alike, one.made_of) == (len(SAMPLES[name]), alike, "jsonl")
    wanted = EXPECTED[name]
    assert found.account["lines"] == len(wanted)
    assert found.account["filtered"] == wanted.count("filtered")
    assert found.account["errors"] + found.account["quarantined"] == sum(
        isinstance(item, str) and item != "filtered" for item in wanted
    )
    assert found.answerable + found.lengths_only == sum(isinstance(item, dict) for item in wanted)
    assert sum(reason.count for reason in found.reasons) == sum(isinstance(item, str) for item in wanted)


def test_reasons_are_counted_with_their_first_line(tmp_path: Path) -> None:
    records = [
        chat("a"),
        chat("b", url="/v1/moderations"),
        chat("c", url="/v1/moderations"),
        {"custom_id": "d", "url": "/v1/chat/completions", "body": {"messages": SECRET}},
    ]
    found = look(tmp_path, lines(records) + b'{"x": "' + SECRET.encode() + b"\n")
    assert (found.answerable, found.account["quarantined"], found.account["errors"]) == (1, 1, 3)
    first = found.reasons[0]
    assert (first.becomes, first.code, first.field, first.count) == (
        "error",
        "unsupported_url",
        "url",
        2,
    )
    assert first.first is not None
    assert first.first.endswith("day.jsonl:2")
    assert {(reason.becomes, reason.code) for reason in found.reasons[1:]} == {
        ("error", "invalid_parameter"),
        ("quarantine", "invalid_json"),
    }
    assert SECRET not in json.dumps(found.as_dict())


def test_filtered_records_have_a_reason_and_times_are_told(tmp_path: Path) -> None:
    found = look(tmp_path, lines(SAMPLES["litellm"]))
    (reason,) = found.reasons
    assert (reason.becomes, reason.message, reason.count, reason.first) == (
        "filtered",
        "call of type aembedding",
        1,
        None,
    )
    assert found.first_time is not None
    assert found.last_time is not None
    assert found.first_time <= found.last_time
    assert found.without_time == 0


def test_requests_of_another_day_and_sources_with_a_date(tmp_path: Path) -> None:
    folder = tmp_path / "2026-03-01"
    folder.mkdir()
    found = look(folder, lines(SAMPLES["litellm"]), run_date=date(2026, 3, 2))
    assert [(reason.message, reason.count) for reason in found.reasons] == [
        ("another date", 3),
        ("call of type aembedding", 1),
    ]
    assert found.answerable == 0
    source = f"{tmp_path}/{{run_date}}/day.jsonl"
    # Its path decides.
    found = examine(source, run_date=date(2026, 3, 1), timezone="Pacific/Kiritimati")
    assert [reason.message for reason in found.reasons] == ["call of type aembedding"]
    with pytest.raises(ConfigurationError, match="--run-date: is needed"):
        examine(source)


def test_how_sure(tmp_path: Path) -> None:
    odd = [{"a": 1}, {"b": 2}, {"c": 3}]
    assert look(tmp_path, lines([chat("a"), *odd])).objects[0].how_sure == "unsure"
    assert look(tmp_path, lines([chat("a"), chat("b"), *odd[:1]])).objects[0].how_sure == "likely"
    both = {
        "conversations": [{"from": "human", "value": "x"}],
        "messages": [{"role": "user", "content": "x"}],
    }
    (one,) = look(tmp_path, lines([both])).objects
    assert (one.format, one.how_sure, one.also) == ("sharegpt", "likely", ("openai-body",))
    given = look(tmp_path, lines([chat("a")]), name="openai-batch").objects
    assert given[0].how_sure == "given"


@pytest.mark.parametrize(
    ("data", "name", "told"),
    [
        (lines([{"text": SECRET, "lang": "en", SECRET: 1}]), "a.jsonl", "the fields text, lang, 1 more"),
        (b"question,lang\nx,en\n", "a.csv", "the fields question, lang"),
        (SECRET.encode() + b"\nmore\n", "a.json", "no line at its beginning is a JSON object"),
        (f"{SECRET}, and, so on\n".encode(), "a.json", "no line at its beginning is a JSON object"),
        (b"[1, 2]\n", "a.json", "no line at its beginning is a JSON object"),
    ],
)
def test_what_is_of_no_format_is_told_by_its_fields(
    tmp_path: Path, data: bytes, name: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = look(tmp_path, data, name)
    (one,) = found.objects
    assert one.how_sure == "unknown"
    assert told in one.remark
    assert told in caplog.text
    assert found.answerable == 0
    assert SECRET not in caplog.text + json.dumps(found.as_dict())


def test_a_record_of_no_format_is_quarantined_with_the_known_ones(tmp_path: Path) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"question": ["a"], "lang": ["de"]}), out)
    for data, name in ((lines([{"question": "a", "lang": "de"}]), "a.jsonl"), (out.getvalue(), "a.parquet")):
        found = look(tmp_path, data, name)
        (reason,) = found.reasons
        assert "no known format has the fields question, lang; known are openai-batch, " in reason.message
        assert "--columns" in reason.message
        assert found.objects[0].remark == reason.message
        assert found.objects[0].how_sure == "unknown"


def test_columns_tables_and_folders(tmp_path: Path) -> None:
    found = look(tmp_path, b"question,lang\nx,en\n,de\n", "a.csv", columns=["prompt=question"])
    assert (found.objects[0].format, found.objects[0].how_sure, found.answerable) == ("generic", "given", 1)
    with duckdb.connect(str(tmp_path / "t.db")) as connection:
        connection.execute("create table t as select 'one' as prompt, 1 as n")
    found = examine(f"duckdb:///{tmp_path}/t.db?query=from t")
    assert (found.objects[0].made_of, found.objects[0].how_sure, found.answerable) == ("table", "given", 1)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(LOOKED_AT + 3):
        (folder / f"{number}.jsonl").write_bytes(lines([chat(str(number))]))
    found = examine(str(folder))
    assert (len(found.objects), found.of, found.answerable) == (LOOKED_AT, LOOKED_AT + 3, LOOKED_AT + 3)
    with pytest.raises(ConfigurationError, match="--source"):
        examine(str(tmp_path / "nothing.jsonl"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "day.jsonl"
    path.write_bytes(lines([chat("a"), chat("b", url="/v1/[bold]")]))
    assert main(["formats", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "OpenAI Batch input (openai-batch), sure; made of jsonl" in shown
    assert "2 lines: 2 requests (1 error among them), 0 quarantined, 0 filtered, 0 blank" in shown
    assert "unsupported_url" in shown
    assert "A run would answer 1 request." in shown
    assert main(["formats", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"][0]["format"] == "openai-batch"
    path.write_bytes(lines([{"question": "What?"}]))
    assert main(["formats", str(path)]) == 2
    assert "no known format has the fields question" in " ".join(capsys.readouterr().out.split())
    assert main(["formats", str(path), "--columns", "prompt=question"]) == 0
    capsys.readouterr()
    assert main(["formats"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in READERS)
    assert main(["formats", str(tmp_path / "nothing"), "--json"]) == 2
