"""What is answered is what was asked: prompts in unusual forms, lost in part, instructions beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.extract.readers.generic import generic_reader
from tests.support.parsing import Outcome, read_records

T0 = 1_795_305_600_000_000_000
USER = {"role": "user", "content": "One?"}


def span(**given: Any) -> dict[str, Any]:
    return {
        "traceId": "t",
        "spanId": "s",
        "name": "call",
        "startTimeUnixNano": T0,
        "endTimeUnixNano": T0 + 1,
        "attributes": {"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 5, **given},
    }


def completion(*contents: Any) -> dict[str, Any]:
    turns = [{"role": "user", "parts": [{"type": "text", "content": content}]} for content in contents]
    return span(**{"gen_ai.operation.name": "text_completion", "gen_ai.input.messages": json.dumps(turns)})


def one(record: dict[str, Any], reader: Any = None) -> dict[str, Any]:
    (found,) = read_records([record], reader)
    return found


def is_lengths(found: dict[str, Any]) -> bool:
    return found["outcome"] is Outcome.REQUEST and found["input_tokens"] is not None and not found["prompt"]


def test_completions_that_are_written_as_turns_of_the_user() -> None:
    assert one(completion("once upon"))["prompt"] == "once upon"
    assert one(completion(5, 6, 7))["token_ids"] == [5, 6, 7]
    assert one(completion(5))["token_ids"] == [5]
    assert one(completion([5, 6]))["token_ids"] == [5, 6]
    for several in (completion("one", "two"), completion("one", 5), completion({"a": 1}, "b")):
        assert one(several)["outcome"] is Outcome.ERROR


def test_a_span_that_has_lost_attributes_has_lengths_only() -> None:
    turns = {
        f"gen_ai.prompt.{i}.{name}": value
        for i in range(3)
        for name, value in (("role", "user"), ("content", f"{i}?"))
    }
    assert len(json.loads(one(span(**turns))["messages_json"])) == 3
    for gone in range(2):
        left = {name: value for name, value in turns.items() if f".{gone}." not in name}
        assert is_lengths(one(span(**left)))
    assert is_lengths(one(span(**turns) | {"droppedAttributesCount": 2}))


def test_text_that_an_exporter_has_cut_is_no_prompt() -> None:
    body = json.dumps({"messages": [USER]})
    for cut in (body[:-4], body[:20], json.dumps([USER])[:-3]):
        assert is_lengths(one(span(**{"gen_ai.prompt": cut})))
    # A prompt may begin with JSON all the same.
    found = one(span(**{"gen_ai.prompt": '{"a": 1} is that right?'}))
    assert json.loads(found["messages_json"])[0]["content"] == '{"a": 1} is that right?'


def test_an_answer_in_the_history_whose_text_was_not_kept() -> None:
    turns = [{"role": role, "parts": [{"type": "text", "content": "a"}]} for role in ("user", "user")]
    turns.insert(1, {"role": "assistant", "parts": []})
    assert is_lengths(one(span(**{"gen_ai.input.messages": json.dumps(turns)})))


def test_what_a_log_keeps_for_the_middle_of_a_long_text() -> None:
    for told in ("812 chars", "skipped 812 chars", "skipped 812 chars. It is kept elsewhere"):
        text = f"It begins ... (litellm_truncated {told}) ... and ends"
        record = {
            "id": "a",
            "call_type": "acompletion",
            "startTime": 1_795_305_600.0,
            "messages": [{"role": "user", "content": text}],
            "prompt_tokens": 300,
        }
        assert is_lengths(one(record))


@pytest.mark.parametrize("name", ["system", "system_prompt", "instructions", "tool_definitions"])
def test_an_instruction_beside_the_messages_of_a_row_is_refused_by_name(name: str) -> None:
    found = one({"messages": [USER, {"role": "assistant", "content": "Yes"}], name: "In French."})
    assert (found["outcome"], found["field"]) == (Outcome.ERROR, name)


def test_a_column_of_system_texts_goes_before_messages() -> None:
    reader = generic_reader({"messages": "m", "system": "s"})
    found = one({"m": [USER], "s": "In French."}, reader)
    assert [turn["content"] for turn in json.loads(found["messages_json"])] == ["In French.", "One?"]


def test_a_schema_that_was_asked_for_is_honoured_or_refused_wherever_it_is() -> None:
    observation = {
        "id": "o",
        "traceId": "t",
        "type": "GENERATION",
        "startTime": "2026-11-22T01:00:00Z",
        "model": "m",
        "input": [USER],
    }
    assert one(observation)["outcome"] is Outcome.REQUEST
    found = one(observation | {"metadata": {"response_format": '{"type":"json_object"}'}})
    assert (found["outcome"], found["field"]) == (Outcome.REQUEST, None)
    assert json.loads(found["settings_json"]) == {"constraint": '{"json":{"type":"object"}}'}
    for metadata in (
        {"response_format": '{"type":"json_schema","json_schema":{"schema":{"not":{}}}}'},
        # It shows no schema.
        {"attributes": {"gen_ai.output.type": "json"}},
    ):
        found = one(observation | {"metadata": metadata})
        assert (found["outcome"], found["field"]) == (Outcome.ERROR, "response_format")
    assert (
        one(observation | {"metadata": {"response_format": {"type": "text"}}})["outcome"] is Outcome.REQUEST
    )
    of_sdk = span(
        **{"ai.prompt.messages": json.dumps([USER]), "ai.operationId": "ai.generateObject.doGenerate"}
    )
    assert one(of_sdk)["field"] == "response_format"


def test_the_system_texts_of_gemini() -> None:
    request = {"contents": [{"role": "user", "parts": [{"text": "One?"}]}]}
    for given in ({"text": "brief"}, {"parts": [{"text": "brief"}]}):
        found = one({"key": "a", "request": {**request, "systemInstruction": given}})
        assert [turn["content"] for turn in json.loads(found["messages_json"])] == ["brief", "One?"]
    masked = {**request, "systemInstruction": {"parts": [{"text": "[REDACTED]"}]}}
    assert one({"key": "a", "request": masked})["outcome"] is Outcome.QUARANTINED
    usage = {"usageMetadata": {"promptTokenCount": 7}}
    assert is_lengths(one({"key": "a", "request": masked, "response": usage}))
