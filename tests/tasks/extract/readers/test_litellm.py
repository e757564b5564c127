from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.parsing import Outcome, read_records

RIVER = [{"role": "user", "content": "Name a river."}]
BRIEF = [{"role": "system", "content": "Be brief."}, *RIVER]
PARTS = [{"role": "user", "content": [{"type": "input_text", "text": "Name a river."}]}]


def call(kind: str, messages: object, **parameters: Any) -> dict[str, Any]:
    record = {"id": "c", "call_type": kind, "status": "success", "startTime": 1772353800.0, "model": "m"}
    return {**record, "messages": messages, "model_parameters": parameters, "prompt_tokens": 5}


@pytest.mark.parametrize("kind", ["text_completion", "atext_completion"])
def test_a_text_completion_is_recorded_as_a_message(kind: str) -> None:
    for messages in ([{"role": "user", "content": "Once"}], '[{"role": "user", "content": "Once"}]', "Once"):
        (found,) = read_records([call(kind, messages, max_tokens=9)])
        assert (found["outcome"], found["prompt"], found["max_tokens"]) == (Outcome.REQUEST, "Once", 9)
    (found,) = read_records([call(kind, [{"role": "user", "content": [5, 6]}])])
    assert found["token_ids"] == [5, 6]
    (found,) = read_records([call(kind, [{"role": "user", "content": ["Once", "Twice"]}])])
    assert (found["outcome"], found["field"]) == (Outcome.ERROR, "prompt")


@pytest.mark.parametrize(
    ("kind", "messages", "parameters", "expected"),
    [
        ("aresponses", RIVER, {"instructions": "Be brief.", "max_output_tokens": 20}, BRIEF),
        ("responses", PARTS, {"instructions": "Be brief.", "text": {"format": {"type": "text"}}}, BRIEF),
        ("aresponses", "Name a river.", {"include": ["reasoning.encrypted_content"]}, RIVER),
        ("anthropic_messages", RIVER, {"include": ["x"], "max_output_tokens": 20}, RIVER),
        ("anthropic_messages", RIVER, {"system": [{"type": "text", "text": "Be brief."}]}, BRIEF),
        ("anthropic_messages", RIVER, {"system": "Be brief.", "thinking": {"type": "disabled"}}, BRIEF),
        ("acompletion", '{"a": 1}', {}, [{"role": "user", "content": '{"a": 1}'}]),
    ],
)
def test_calls_of_other_apis_are_requests(
    kind: str, messages: object, parameters: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    (found,) = read_records([call(kind, messages, **parameters)])
    assert (found["outcome"], json.loads(found["messages_json"])) == (Outcome.REQUEST, expected)
    assert found["max_tokens"] == parameters.get("max_output_tokens")


@pytest.mark.parametrize(
    ("kind", "parameters", "field"),
    [
        ("aresponses", {"previous_response_id": "r"}, "previous_response_id"),
        ("aresponses", {"reasoning": {"summary": "auto"}}, "reasoning"),
        ("aresponses", {"tools": [{"type": "web_search"}]}, "tools"),
        ("anthropic_messages", {"thinking": {"type": "enabled"}}, "thinking"),
        ("anthropic_messages", {"tools": [{"name": "f"}]}, "tools"),
        ("acompletion", {"functions": [{"name": "f"}]}, "functions"),
    ],
)
def test_what_they_ask_for_beside_text_is_refused_by_name(
    kind: str, parameters: dict[str, Any], field: str
) -> None:
    (found,) = read_records([call(kind, RIVER, **parameters)])
    assert (found["outcome"], found["code"], found["field"]) == (
        Outcome.ERROR,
        "unsupported_parameter",
        field,
    )


def test_spend_logs_of_other_apis() -> None:
    for kind, sent, expected in [
        ("aresponses", {"input": "Name a river.", "instructions": "Be brief."}, BRIEF),
        ("anthropic_messages", {"system": "Be brief.", "messages": RIVER, "max_tokens": 5}, BRIEF),
        ("acompletion", {"body": {"messages": RIVER}, "headers": {"authorization": "never-shown"}}, RIVER),
    ]:
        record = call(kind, "{}") | {"proxy_server_request": json.dumps({"model": "m", **sent})}
        (found,) = read_records([record])
        assert json.loads(found["messages_json"]) == expected
        assert "never-shown" not in str(found)
    record = call("atext_completion", {}) | {"proxy_server_request": {"prompt": "Once", "tags": ["a"]}}
    (found,) = read_records([record])
    assert found["prompt"] == "Once"


@pytest.mark.parametrize("kind", ["aembedding", "aimage_generation", "agenerate_content", None, 5])
def test_other_calls_are_filtered(kind: object) -> None:
    (found,) = read_records([call("acompletion", RIVER) | {"call_type": kind}])
    assert found["outcome"] is Outcome.FILTERED
    name = kind if isinstance(kind, str) else "None" if kind is None else str(kind)
    assert found["reason"] == f"call of type {name}"


def test_a_reason_holds_no_text_of_a_record() -> None:
    (found,) = read_records([call("acompletion", RIVER) | {"call_type": "please keep this to yourself"}])
    assert found["reason"] == "call of type unknown"
