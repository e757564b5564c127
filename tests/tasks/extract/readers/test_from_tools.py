"""What real tools were seen to write, each kind by a record of our own (`make test-producers` runs them)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.parsing import Outcome, read_records

WRAPPER = {
    "temperature": 1,
    "max_tokens": "Infinity",
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}
QUESTION = [{"role": "user", "content": "Name a hill."}]


def one(record: dict[str, Any]) -> dict[str, Any]:
    (found,) = read_records([record])
    return found


def observation(given: object, output: object, parameters: dict[str, Any]) -> dict[str, Any]:
    record = {"type": "GENERATION", "trace_id": "t", "id": "o", "start_time": "2026-03-01 08:30:00.125"}
    return {**record, "input": given, "output": output, "model_parameters": json.dumps(parameters)}


@pytest.mark.parametrize(
    ("output", "parameters", "endpoint"),
    [
        (" there was", WRAPPER, "completions"),
        ("", WRAPPER, "completions"),
        ('{"town": "Ulm"}', WRAPPER, "completions"),
        # An answer of `/v1/responses`, whose input may be a text as well.
        ({"type": "message", "role": "assistant", "content": []}, WRAPPER, "chat"),
        ('{"type": "message", "content": []}', WRAPPER, "chat"),
        ('[{"type": "reasoning"}, {"type": "message"}]', WRAPPER, "chat"),
        # Of a call that failed nobody can know.
        (None, WRAPPER, "chat"),
        # Others than the wrapper write texts for chats.
        ("there was", {"temperature": 1}, "chat"),
    ],
)
def test_a_text_completion_of_langfuse_s_wrapper_is_one(
    output: object, parameters: dict[str, Any], endpoint: str
) -> None:
    found = one(observation("Once", output, parameters))
    assert found["outcome"] is Outcome.REQUEST
    assert found["endpoint"] == endpoint
    assert found["prompt"] == ("Once" if endpoint == "completions" else None)


def trace_span(given: dict[str, Any]) -> dict[str, Any]:
    attributes = {"mlflow.spanType": json.dumps("CHAT_MODEL"), "mlflow.spanInputs": json.dumps(given)}
    return {"trace_id": "t", "span_id": "s", "attributes": attributes}


def test_the_arguments_of_a_traced_call_are_the_body_that_was_sent() -> None:
    plain = {"messages": QUESTION, "model": "m"}
    found = one(
        trace_span(
            {**plain, "extra_body": {"top_k": 20, "min_p": 0}, "timeout": 5, "extra_headers": {"a": "b"}}
        )
    )
    assert (found["outcome"], found["sampling"]["top_k"]) == (Outcome.REQUEST, 20)
    refused = one(trace_span({**plain, "extra_body": {"guided_regex": "a+"}}))
    assert (refused["outcome"], refused["field"]) == (Outcome.ERROR, "guided_regex")
    # What is no object of fields stays, and is refused.
    assert one(trace_span({**plain, "extra_body": "x"}))["field"] == "extra_body"


def test_lines_for_responses_may_lie_behind_chats() -> None:
    lines: list[dict[str, Any]] = [
        {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": QUESTION}},
        {"custom_id": "b", "url": "/v1/responses", "body": {"input": "Name a hill.", "max_output_tokens": 9}},
        {"custom_id": "c", "url": "/v1/responses", "body": {"input": "x", "tools": [{"type": "function"}]}},
        {"custom_id": "d", "url": "https://h/openai/responses?api-version=1", "body": {"input": QUESTION}},
        {"custom_id": "e", "url": "/v1/responses", "method": "GET", "body": {"input": "x"}},
        {"custom_id": "f", "url": "/v1/responses", "body": "x"},
        {"custom_id": "g", "url": "/v1/responses"},
    ]
    found = read_records(lines)
    assert {row["format"] for row in found} == {"openai-batch"}
    assert [row["outcome"] for row in found] == [
        *(Outcome.REQUEST, Outcome.REQUEST, Outcome.ERROR, Outcome.REQUEST),
        *[Outcome.QUARANTINED] * 3,
    ]
    assert found[0]["messages_json"] == found[1]["messages_json"] == found[3]["messages_json"]
    assert (found[1]["max_tokens"], found[1]["custom_id"], found[2]["field"]) == (9, "b", "tools")
    assert [row["field"] for row in found[4:]] == ["method", "body", "body"]
