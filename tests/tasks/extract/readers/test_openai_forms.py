"""Requests and results in OpenAI's form as other hosts and servers write it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.base.errors import QuarantineError
from tasks.extract.extract import extract
from tasks.extract.readers import openai_batch, openai_body, openai_output

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.base.errors import RequestError
    from tasks.extract.result import ExtractResult

CHAT = {"messages": [{"role": "user", "content": "Name a river."}]}
TEXT = {"prompt": "Once"}


def run(tmp_path: Path, records: list[dict[str, Any]]) -> ExtractResult:
    path = tmp_path / "day.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return extract(str(path), job="j", run_date=date(2026, 3, 1), scratch=tmp_path / "out")


def rows(result: ExtractResult, table: str) -> list[dict[str, Any]]:
    return [row for path in result.files(table) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/completions", "completions"),
        ("/openai/v1/chat/completions", "chat"),
        ("/openai/deployments/d-1/chat/completions?api-version=2026-01-01", "chat"),
        ("/openai/deployments/chat/completions", "chat"),
        ("https://me.openai.azure.com/openai/deployments/d/completions?api-version=1", "completions"),
        ("https://api.example.org/inference/v1/chat/completions", "chat"),
        ("HTTP://localhost:8000/v1/completions", "completions"),
    ],
)
def test_addresses_of_the_same_endpoint(url: str, endpoint: str) -> None:
    body = CHAT if endpoint == "chat" else TEXT
    logged = openai_batch.read({"custom_id": "a", "url": url, "body": body})
    assert (logged.endpoint, logged.custom_id, logged.body, logged.rest) == (endpoint, "a", body, {})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "/v1/embeddings/7",
        "/v1/responses/7",
        "/v1/chat/completions/7",
        "/v1/chat/completions#x",
        "/v1/nocompletions",
        "chat/completions",
        "ftp://host/v1/completions",
        "https:///v1/completions",
        "/v1/chat completions",
    ],
)
def test_other_addresses(url: str) -> None:
    with pytest.raises(QuarantineError) as caught:
        openai_batch.read({"custom_id": "a", "url": url, "body": CHAT})
    assert (caught.value.code, caught.value.field) == ("unsupported_url", "url")


def test_without_a_url_the_body_tells(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [
        CHAT,
        TEXT | {"model": "m"},
        {"input": "Name a river."},
        {"messages": None, "prompt": "Once"},
        {"max_tokens": 5},
        {"messages": [], "prompt": None},
        {"prompt": [1, 2]},
    ]
    result = run(tmp_path, [{"custom_id": str(n), "body": body} for n, body in enumerate(bodies)])
    assert result.objects[0].format == "openai-batch"
    found = {row["custom_id"]: row["endpoint"] for row in rows(result, "requests")}
    assert found == {"0": "chat", "1": "completions", "3": "completions", "6": "completions"}
    assert {(row["custom_id"], row["code"], row["field"]) for row in rows(result, "errors")} == {
        ("2", "unsupported_url", "body.input"),
        ("4", "missing_field", "url"),
        ("5", "empty_prompt", "messages"),
    }
    assert rows(result, "quarantine") == []
    assert not openai_batch.matches({"body": CHAT})
    assert not openai_batch.matches({"custom_id": "a", "body": "x"})


def test_bodies_by_themselves() -> None:
    assert not openai_body.matches({"messages": [{"content": "no role"}]})
    assert not openai_body.matches({"messages": []})
    assert not openai_body.matches({"prompt": "Once", "lang": "en"})
    prefix = {"role": "assistant", "content": "The Elbe"}
    asked = [*CHAT["messages"], prefix]
    logged = openai_body.read({"messages": asked, "continue_final_message": True})
    assert logged.body is not None
    assert logged.body["messages"] == asked
    logged = openai_body.read({"messages": asked})
    assert logged.body is not None
    assert logged.body["messages"] == CHAT["messages"]
    assert openai_body.read({"messages": "x"}).body == {"messages": "x"}


def test_rows_of_a_data_set_keep_their_other_fields() -> None:
    row = {"prompt": "Name a river.", "prompt_id": "p1", "source": {"x": 1}, "split": "train"}
    logged = openai_body.read({**CHAT, **row})
    assert (logged.body, logged.rest) == (CHAT, row)
    # What would change an answer is refused by name.
    for name in ("tools", "response_format", "guided_json", "chat_template_kwargs"):
        assert openai_body.read({**CHAT, name: {"a": 1}}).body == {**CHAT, name: {"a": 1}}
    # A body has no other fields.
    body = {**CHAT, "temperature": 0, "no_such_field": 1}
    assert (openai_body.read(body).body, openai_body.read(body).rest) == (body, {})
    # Only a body was made when it says that it was created.
    day = "2026-03-01"
    logged = openai_body.read({**CHAT, "created_at": day, "event_time": "2026-03-02"})
    assert (logged.rest, logged.event_time) == ({"created_at": day}, datetime(2026, 3, 2, tzinfo=UTC))
    logged = openai_body.read({**CHAT, "model": "m", "created_at": day})
    assert (logged.rest, logged.event_time) == ({}, datetime(2026, 3, 1, tzinfo=UTC))
    logged = openai_body.read({"prompt": "Once", "completion": " upon", "lang": "en"})
    assert (logged.body, logged.rest, logged.endpoint) == (TEXT, {"lang": "en"}, "completions")


def output(status: int | None = 200, error: object = None, **body: Any) -> dict[str, Any]:
    response = None if status is None else {"status_code": status, "body": body or None}
    return {"id": "r", "custom_id": "a", "response": response, "error": error}


def failure(record: dict[str, Any]) -> RequestError:
    logged = openai_output.read(record)
    assert logged is not None
    assert (logged.shape, logged.output_tokens) == (None, None)
    assert logged.error is not None
    return logged.error


NESTED = {
    "error": {
        "message": "too long by 1 token",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    }
}


@pytest.mark.parametrize(
    ("record", "message", "field", "retryable"),
    [
        (output(400, NESTED), "status 400: BadRequestError: too long by 1 token", "input_tokens", False),
        (output(400, "URL /v1/nope was used."), "status 400: URL /v1/nope was used.", None, False),
        (
            output(404, NESTED["error"]),
            "status 404: BadRequestError: too long by 1 token",
            "input_tokens",
            False,
        ),
        (output(429, **NESTED), "status 429: BadRequestError: too long by 1 token", "input_tokens", True),
        (output(500), "status 500", None, True),
        (output(None, {"code": "batch_expired", "message": "Late."}), "batch_expired: Late.", None, True),
        (output(200, {"code": "odd", "message": None}), "odd", None, False),
        (output(200, {"note": {"a": 1}}), "no reason is given", None, False),
        (
            output(400, "1 validation error:\n  {'input': 'the prompt nobody may read'}"),
            "status 400: 1 validation error:",
            None,
            False,
        ),
        (output(400, "bad type, input_value='the prompt'"), "status 400: bad type", None, False),
    ],
)
def test_failed_lines_are_errors_with_status_and_reason(
    record: dict[str, Any], message: str, field: str | None, retryable: bool
) -> None:
    error = failure(record)
    assert (error.code, error.message, error.field, error.retryable) == (
        "failed_before",
        message,
        field,
        retryable,
    )


@pytest.mark.parametrize("tokens", [0, 3])
def test_an_answer_that_was_given_up_is_none(tokens: int) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    aborted = [{"finish_reason": "stop"}, {"finish_reason": "abort"}]
    assert failure(output(choices=aborted, usage=usage)).retryable
    assert "(abort)" in failure(output(choices=aborted, usage=usage)).message
    made = openai_output.read(output(choices=aborted[:1], usage=usage, error=None))
    assert made is not None
    assert (made.error is not None) == (tokens == 0)


def test_lengths_of_several_choices_are_those_of_one(tmp_path: Path) -> None:
    choices = [{"finish_reason": "length"}] * 3
    usage = {"prompt_tokens": 7, "completion_tokens": 8}
    records = [
        output(choices=choices, usage=usage),
        output(choices=choices[:1], usage=usage),
        output(400, NESTED),
        output(object="list", usage={"prompt_tokens": 3}),
    ]
    records = [record | {"custom_id": str(n)} for n, record in enumerate(records)]
    result = run(tmp_path, records)
    found = {row["custom_id"]: row for row in rows(result, "requests")}
    assert [found[name]["observed_output_tokens"] for name in "01"] == [3, 8]
    assert found["0"]["sampling"]["n"] == 3
    assert found["1"]["sampling"] is None
    (error,) = rows(result, "errors")
    assert (error["custom_id"], error["code"]) == ("2", "failed_before")
    account = result.account
    assert (account.lines, account.requests, account.errors, account.filtered) == (4, 3, 1, 1)
    assert result.shapes == 2


def test_a_data_set_in_parquet_with_a_column_of_times(tmp_path: Path) -> None:
    at = datetime(2026, 3, 1, 8, 30, tzinfo=UTC)
    table = pa.table({"messages": [CHAT["messages"]] * 2, "at": [at, None], "score": [float("nan"), 0.5]})
    pq.write_table(table, tmp_path / "set.parquet")
    result = extract(
        str(tmp_path / "set.parquet"), job="j", run_date=date(2026, 3, 1), scratch=tmp_path / "out"
    )
    assert result.objects[0].format == "openai-body"
    kept = [json.loads(row["passthrough_json"])["envelope"] for row in rows(result, "requests")]
    assert kept == [{"at": at.isoformat(), "score": None}, {"at": None, "score": 0.5}]
