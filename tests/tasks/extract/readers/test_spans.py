"""Spans by every convention: tools are never dropped, and what is nested, flat or in columns is the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.parsing import Outcome, read_records

RIVER = [{"role": "user", "content": "Name a river."}]
BRIEF = [{"role": "system", "content": "Be brief."}, *RIVER]
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
GENAI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.input.messages": json.dumps(
        [{"role": "user", "parts": [{"type": "text", "content": "Name a river."}]}]
    ),
    "gen_ai.usage.input_tokens": 9,
}
OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "m-2026-01-01",
    "llm.invocation_parameters": json.dumps(
        {"model": "m", "max_tokens": 20, "temperature": 0.5, "_type": "x"}
    ),
    "llm.input_messages.0.message.role": "system",
    "llm.input_messages.0.message.content": "Be brief.",
    "llm.input_messages.1.message.role": "user",
    "llm.input_messages.1.message.contents.0.message_content.type": "text",
    "llm.input_messages.1.message.contents.0.message_content.text": "Name a river.",
    "llm.token_count.prompt": 11,
    "llm.token_count.completion": 3,
}


def span(attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"trace_id": "t", "span_id": "s", "attributes": attributes, **more}


def otlp(attributes: dict[str, Any]) -> dict[str, Any]:
    names = {str: "stringValue", int: "intValue", float: "doubleValue", bool: "boolValue"}
    pairs = [{"key": name, "value": {names[type(value)]: value}} for name, value in attributes.items()]
    return {"traceId": "t", "spanId": "s", "attributes": pairs}


def read(record: dict[str, Any]) -> dict[str, Any]:
    (found,) = read_records([record])
    return found


@pytest.mark.parametrize(
    "tools",
    [
        {"gen_ai.tool.definitions": json.dumps([TOOL])},
        {"gen_ai.tool.definitions": [TOOL]},
        {"gen_ai.request.tools": json.dumps([TOOL])},
        {"ai.prompt.tools": [json.dumps(TOOL)]},
        {"llm.request.functions.0.name": "f", "llm.request.functions.0.parameters": "{}"},
        {"llm.tools.0.tool.json_schema": json.dumps(TOOL)},
    ],
)
def test_tools_anywhere_are_refused_by_name(tools: dict[str, Any]) -> None:
    for attributes in (GENAI, OPENINFERENCE):
        found = read(span(attributes | tools))
        assert (found["outcome"], found["code"], found["field"]) == (
            Outcome.ERROR,
            "unsupported_parameter",
            "tools",
        )


@pytest.mark.parametrize("tools", ["[]", [], "", None, "not json", ["search", "mail"]])
def test_no_tools_are_no_tools(tools: object) -> None:
    assert read(span(GENAI | {"gen_ai.tool.definitions": tools}))["outcome"] is Outcome.REQUEST


@pytest.mark.parametrize(
    "record",
    [
        {"type": "GENERATION", "trace_id": "t", "input": RIVER, "tool_definitions": {"f": json.dumps(TOOL)}},
        {"type": "GENERATION", "trace_id": "t", "input": RIVER, "toolDefinitions": [TOOL]},
        {"type": "GENERATION", "trace_id": "t", "input": {"messages": RIVER, "tools": [TOOL]}},
        {"type": "GENERATION", "trace_id": "t", "input": RIVER, "metadata": {"tools": [TOOL]}},
        {
            "type": "GENERATION",
            "trace_id": "t",
            "input": RIVER,
            "metadata": json.dumps({"attributes": {"ai.prompt.tools": [json.dumps(TOOL)]}}),
        },
        {"conversations": [{"from": "human", "value": "Hi"}], "tools": json.dumps([TOOL])},
        {"recordId": "r", "modelInput": {"messages": RIVER, "toolConfig": {"tools": [TOOL]}}},
        {"recordId": "r", "modelInput": {"messages": RIVER, "tools": [TOOL]}},
        {
            "request_id": "q",
            "request_created_at": "2026-03-01T08:30:00Z",
            "request_body": {"contents": "Hi", "tools": [{"functionDeclarations": [TOOL]}]},
        },
    ],
)
def test_tools_of_other_logs_are_refused_by_name(record: dict[str, Any]) -> None:
    found = read(record)
    assert (found["outcome"], found["field"] in ("tools", "toolConfig")) == (Outcome.ERROR, True)


def test_notes_about_tools_are_no_tools() -> None:
    record = {"type": "GENERATION", "trace_id": "t", "input": RIVER, "metadata": {"tools": ["search"]}}
    assert read(record)["outcome"] is Outcome.REQUEST


def test_the_system_text_of_a_fine_tuning_set_is_kept() -> None:
    found = read({"conversations": [{"from": "human", "value": "Name a river."}], "system": "Be brief."})
    assert json.loads(found["messages_json"]) == BRIEF


def test_calls_of_tools_in_numbered_prompts_are_refused() -> None:
    prompt = {"gen_ai.prompt.0.role": "assistant", "gen_ai.prompt.0.content": "x"}
    found = read(span(prompt | {"gen_ai.prompt.0.tool_calls.0.name": "f", "gen_ai.usage.prompt_tokens": 4}))
    assert (found["outcome"], found["field"]) == (Outcome.ERROR, "messages[0].tool_calls")


def test_parts_as_json_text_are_parts() -> None:
    parts = json.dumps([{"type": "text", "text": "Name a "}, {"type": "text", "text": "river."}])
    found = read(span({"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": parts}))
    assert json.loads(found["messages_json"]) == RIVER


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"gen_ai.output.type": "json"}, "response_format"),
        ({"gen_ai.openai.request.response_format": "json_schema"}, "response_format"),
        ({"gen_ai.request.structured_output_schema": '{"not": {}}'}, "response_format"),
        ({"gen_ai.request.frequency_penalty": 3}, "frequency_penalty"),
        ({"llm.presence_penalty": -3}, "presence_penalty"),
        ({"gen_ai.request.something_new": 1}, "something_new"),
    ],
)
def test_settings_of_spans_are_honoured_or_refused(asked: dict[str, Any], field: str) -> None:
    found = read(span(GENAI | asked))
    assert (found["outcome"], found["field"]) == (Outcome.ERROR, field)


def test_penalties_of_spans_are_honoured() -> None:
    asked = {"gen_ai.request.frequency_penalty": 0.5, "llm.presence_penalty": -0.5}
    found = read(span(GENAI | asked))
    assert found["outcome"] is Outcome.REQUEST
    assert json.loads(found["settings_json"]) == {"frequency_penalty": 0.5, "presence_penalty": -0.5}


def test_settings_without_effect_pass() -> None:
    neutral = {"gen_ai.output.type": "text", "gen_ai.openai.request.response_format": "text"}
    neutral |= {"gen_ai.request.is_stream": False, "llm.frequency_penalty": 0.0}
    found = read(span(GENAI | neutral | {"gen_ai.openai.request.seed": 7, "llm.chat.stop_sequences": ["."]}))
    assert (found["outcome"], found["sampling"]["seed"]) == (Outcome.REQUEST, 7)
    assert found["sampling"]["stop"] == ["."]


def test_content_in_events_of_a_span() -> None:
    content = {"gen_ai.input.messages": GENAI["gen_ai.input.messages"]}
    for event in ({"name": "e", "attributes": content}, otlp(content) | {"name": "e"}):
        found = read(span({"gen_ai.operation.name": "chat"}, events=[event]))
        assert json.loads(found["messages_json"]) == RIVER


def test_the_sdk_s_messages() -> None:
    found = read(span({"gen_ai.request.model": "m", "ai.prompt.messages": json.dumps(RIVER)}))
    assert json.loads(found["messages_json"]) == RIVER


NESTED = {
    "openinference": {"span": {"kind": "LLM"}},
    "llm": {
        "model_name": "m-2026-01-01",
        "invocation_parameters": OPENINFERENCE["llm.invocation_parameters"],
        "input_messages": [
            {"message": {"role": "system", "content": "Be brief."}},
            {
                "message": {
                    "role": "user",
                    "contents": [{"message_content": {"type": "text", "text": "Name a river."}}],
                }
            },
        ],
        "token_count": {"prompt": 11, "completion": 3},
    },
}
COLUMNS = {
    "context.trace_id": "t",
    "context.span_id": "s",
    "attributes.openinference.span.kind": "LLM",
    "attributes.llm.invocation_parameters": OPENINFERENCE["llm.invocation_parameters"],
    "attributes.llm.token_count.completion": 3,
    "attributes.llm.input_messages": [
        {"message.role": "system", "message.content": "Be brief."},
        {"message.role": "user", "message.content": "Name a river."},
    ],
    "attributes.output.value": None,
}


@pytest.mark.parametrize(
    "record",
    [
        span(OPENINFERENCE),
        otlp(OPENINFERENCE),
        {"context": {"trace_id": "t", "span_id": "s"}, "attributes": NESTED},
        {"context": {"trace_id": "t", "span_id": "s"}, "attributes": json.dumps(NESTED)},
        COLUMNS,
        span(OPENINFERENCE | {"input.value": '{"messages": [[{"lc": 1, "kwargs": {"content": "x"}}]]}'}),
        span(OPENINFERENCE | {"gen_ai.request.model": "m"}),
        span(
            {
                "openinference.span.kind": "LLM",
                "input.value": json.dumps({"model": "m", "messages": BRIEF, "temperature": 0.5}),
                "llm.invocation_parameters": '{"max_tokens": 20}',
                "llm.token_count.completion": 3,
            }
        ),
    ],
)
def test_a_call_by_openinference(record: dict[str, Any]) -> None:
    found = read(record)
    assert json.loads(found["messages_json"]) == BRIEF
    assert (found["format"], found["custom_id"], found["requested_model"]) == ("otel", "t/s", "m")
    assert (found["max_tokens"], found["sampling"]["temperature"]) == (20, 0.5)
    assert found["observed_output_tokens"] == 3


def test_other_things_in_openinference() -> None:
    assert read(span({"openinference.span.kind": "CHAIN", "input.value": "x"}))["outcome"] is Outcome.FILTERED
    kinds = {"openinference.span.kind": "LLM", "llm.token_count.prompt": 4}
    assert read(span(kinds))["input_tokens"] == 4
    found = read(span(kinds | {"input.value": "Name a river."}))
    assert json.loads(found["messages_json"]) == RIVER
    assert read(span(kinds | {"llm.prompts.0.prompt.text": "Once"}))["prompt"] == "Once"
    image = {"llm.input_messages.0.message.role": "user"}
    image |= {"llm.input_messages.0.message.contents.0.message_content.type": "image"}
    assert read(span(kinds | image))["field"] == "messages[0].content[0].type"
    called = {"llm.input_messages.0.message.role": "assistant", "llm.input_messages.0.message.content": "x"}
    called |= {"llm.input_messages.0.message.tool_calls.0.tool_call.function.name": "f"}
    assert read(span(kinds | called))["field"] == "messages[0].tool_calls"
    sent = {"input.value": json.dumps({"messages": RIVER, "tools": [TOOL]})}
    assert read(span(kinds | sent))["field"] == "tools"
