"""Lines for `/v1/responses`: read as chats, and answered in that API's own form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.publish.output_lines import error_line, output_line
from tests.support.answered_rows import answered, token
from tests.support.parsing import read_records

LOOK_UP = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def read(**body: Any) -> dict[str, Any]:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", **body}}
    return read_records([line])[0]


def as_chat(**body: Any) -> dict[str, Any]:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return read_records([line])[0]


def answer_of(read_row: dict[str, Any], **columns: Any) -> dict[str, Any]:
    kept = {name: read_row[name] for name in ("endpoint", "passthrough_json")}
    return output_line(answered(**kept, **columns), "served")["response"]["body"]


HI = {"messages": [("user", "Hi")]}
FORMAT = {"name": "s", "schema": SCHEMA, "strict": True}
NAMED = {"type": "function", "function": {"name": "look_up"}}
AS_CHAT = {"type": "function", "function": {name: LOOK_UP[name] for name in LOOK_UP if name != "type"}}


@pytest.mark.parametrize(
    ("body", "chat"),
    [
        ({"instructions": "Be brief."}, {"messages": [("system", "Be brief."), ("user", "Hi")]}),
        ({"reasoning": {"effort": "low"}}, {**HI, "reasoning_effort": "low"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {**HI, "response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", **FORMAT}}},
            {**HI, "response_format": {"type": "json_schema", "json_schema": FORMAT}},
        ),
        (
            {"tools": [LOOK_UP], "tool_choice": {"type": "function", "name": "look_up"}},
            {**HI, "tools": [AS_CHAT], "tool_choice": NAMED},
        ),
    ],
)
def test_a_call_is_the_chat_that_it_asks_for(body: dict[str, Any], chat: dict[str, Any]) -> None:
    messages = [{"role": role, "content": text} for role, text in chat["messages"]]
    found, expected = read(input="Hi", **body), as_chat(**{**chat, "messages": messages})
    assert found["outcome"] == expected["outcome"] == "request"
    for name in ("messages_json", "settings_json", "sampling", "answer_key"):
        assert found[name] == expected[name]
    assert (found["endpoint"], expected["endpoint"]) == ("responses", "chat")


def test_calls_of_one_turn_are_one_message() -> None:
    calls = [
        {"type": "function_call", "call_id": f"c{i}", "name": "look_up", "arguments": '{"b": 1, "a": 2}'}
        for i in range(2)
    ]
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    gave = [{"type": "function_call_output", "call_id": f"c{i}", "output": f"r{i}"} for i in range(2)]
    parts = {**gave[1], "output": [{"type": "input_text", "text": "r1"}]}
    row = read(input=[{"role": "user", "content": "x"}, said, *calls, gave[0], parts, calls[0], gave[0]])
    messages = json.loads(row["messages_json"])
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert messages[1]["content"] == "I look."
    assert [one["id"] for one in messages[1]["tool_calls"]] == ["c0", "c1"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"b": 1, "a": 2}'
    assert [one["content"] for one in messages[2:4]] == ["r0", "r1"]
    assert messages[4]["content"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "text"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [LOOK_UP], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"previous_response_id": "r"}, "previous_response_id"),
    ],
)
def test_what_is_refused(body: dict[str, Any], field: str) -> None:
    found = read(input="Hi", **body)
    assert (found["outcome"], found["field"]) == ("error", field)


def test_an_answer_of_text() -> None:
    asked = {"instructions": "Be brief.", "temperature": 0.5, "max_output_tokens": 9, "metadata": {"k": "v"}}
    body = answer_of(read(input="Hi", **asked), text="Yes.")
    assert {name: body[name] for name in asked} == asked
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "served")
    (item,) = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}]
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] + body["usage"]["output_tokens"]
    assert body["text"] == {"format": {"type": "text"}}
    assert (body["tools"], body["tool_choice"], body["parallel_tool_calls"]) == ([], "auto", True)


def test_an_answer_that_was_cut() -> None:
    body = answer_of(read(input="Hi"), text="Ye", finish_reason="length")
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["status"] == "incomplete"


def test_an_answer_of_calls() -> None:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
        for i in range(2)
    ]
    asked = read(input="Hi", tools=[LOOK_UP], tool_choice="required", parallel_tool_calls=False)
    body = answer_of(asked, text="", tool_calls_json=json.dumps([calls]))
    assert [(item["type"], item["call_id"], item["arguments"]) for item in body["output"]] == [
        ("function_call", "call_0", "{}"),
        ("function_call", "call_1", "{}"),
    ]
    assert (body["tools"], body["tool_choice"], body["parallel_tool_calls"]) == ([LOOK_UP], "required", False)
    body = answer_of(asked, text="I look.", tool_calls_json=json.dumps([calls]))
    assert [item["type"] for item in body["output"]] == ["message", "function_call", "function_call"]


def test_log_probabilities_are_with_the_text() -> None:
    row = read(input="Hi", include=["message.output_text.logprobs"], top_logprobs=1)
    choices = [{"text": "Yes", "token_ids": [1], "finish_reason": "stop", "logprobs": [token("Yes", -0.5)]}]
    body = answer_of(row, text="Yes", choices=choices)
    (told,) = body["output"][0]["content"][0]["logprobs"]
    assert (told["token"], told["logprob"], body["top_logprobs"]) == ("Yes", -0.5, 1)


def test_functions_in_the_form_of_a_chat_are_told_again_in_that_of_this_api() -> None:
    nested = {"type": "function", "function": {"name": "now"}}
    body = answer_of(read(input="Hi", tools=[nested], tool_choice=nested))
    assert body["tools"] == [{"type": "function", "name": "now", "parameters": None, "strict": None}]
    assert body["tool_choice"] == {"type": "function", "name": "now"}


def test_what_is_told_again_is_no_field_of_the_sender() -> None:
    row = read(input="Hi", instructions="Secret words.")
    line = output_line(answered(**{name: row[name] for name in ("endpoint", "passthrough_json")}), "m")
    assert "responses" not in line["nightblend"]
    refused = read(input="Hi", instructions="Secret words.", temperature=9)
    error = {"code": "invalid_parameter", "field": "temperature", "message": "x", "retryable": False}
    line = error_line({**answered(), **error, "passthrough_json": refused["passthrough_json"]})
    assert "Secret" not in json.dumps(line)
    chat = {"custom_id": "a", "url": "/v1/chat/completions", "responses": {"instructions": "x"}}
    (row,) = read_records([chat | {"body": {"messages": [{"role": "user", "content": "x"}]}}])
    assert row["endpoint"] == "chat"
    assert json.loads(row["passthrough_json"]) == {"envelope": {"responses": {"instructions": "x"}}}
