"""What tools write where a prompt was is never answered: its lengths, or quarantine with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.parsing import Outcome, read_records

AT = "2026-03-01T08:30:00Z"
CUT = "The first half... (litellm_truncated skipped 812 chars) ...the last words"


def user(content: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def litellm(messages: object, tokens: object = 9, **more: object) -> dict[str, Any]:
    record = {"call_type": "acompletion", "startTime": 1772353800.0, "id": "c", "model": "m"}
    return {**record, "messages": messages, "prompt_tokens": tokens, **more}


def langfuse(given: object, tokens: object = 9) -> dict[str, Any]:
    record = {"type": "GENERATION", "traceId": "t", "id": "c", "startTime": AT, "model": "m"}
    return {**record, "input": given, "usageDetails": {"input": tokens} if tokens else {}}


def genai(messages: object, tokens: object = 9, **more: object) -> dict[str, Any]:
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": messages, **more}
    if tokens is not None:
        attributes["gen_ai.usage.input_tokens"] = tokens
    return {"trace_id": "t", "span_id": "c", "attributes": attributes}


def openinference(attributes: dict[str, Any], tokens: object = 9) -> dict[str, Any]:
    given = {"openinference.span.kind": "LLM", **attributes, "llm.token_count.prompt": tokens}
    return {"context": {"trace_id": "t", "span_id": "c"}, "attributes": given}


def helicone(body: object, tokens: object = 9) -> dict[str, Any]:
    record = {"request_id": "c", "request_created_at": AT, "request_body": body}
    return {**record, "prompt_tokens": tokens}


LOST: dict[str, Any] = {
    "LiteLLM, masked": lambda n: litellm(user("redacted-by-litellm"), n),
    "LiteLLM, masked in one of several": lambda n: litellm([*user("Hi"), *user("redacted-by-litellm")], n),
    "LiteLLM, a call without messages": lambda n: litellm(user("default-message-value"), n),
    "LiteLLM, the same as a text": lambda n: litellm("default-message-value", n),
    "LiteLLM, spend log": lambda n: litellm("{}", n),
    "LiteLLM, empty list as text": lambda n: litellm("[]", n),
    "LiteLLM, object": lambda n: litellm({}, n, proxy_server_request="{}"),
    "LiteLLM, null": lambda n: litellm(None, n),
    "LiteLLM, cut in the middle": lambda n: litellm(
        "{}", n, proxy_server_request=json.dumps({"messages": user(CUT)})
    ),
    "LiteLLM, cut in the system text": lambda n: litellm(
        "{}", n, call_type="anthropic_messages", proxy_server_request={"system": CUT, "messages": user("Hi")}
    ),
    "LiteLLM, all cut": lambda n: litellm({}, n, proxy_server_request='{"litellm_truncated": true}'),
    "LiteLLM, text completion": lambda n: litellm(
        user("redacted-by-litellm"), n, call_type="atext_completion"
    ),
    "LiteLLM, system text of Responses masked": lambda n: litellm(
        user("Hi"), n, call_type="aresponses", model_parameters={"instructions": "redacted-by-litellm"}
    ),
    "Langfuse, system text masked": lambda n: langfuse({"system": "[REDACTED]", "messages": user("Hi")}, n),
    "GenAI, system text masked": lambda n: genai(
        [{"role": "user", "parts": [{"type": "text", "content": "x"}]}],
        n,
        **{"gen_ai.system_instructions": [{"type": "text", "content": "[REDACTED]"}]},
    ),
    "OpenInference, system text masked": lambda n: openinference(
        {"input.value": json.dumps({"system": "__REDACTED__", "messages": user("Hi")})}, n
    ),
    "MLflow, system text masked": lambda n: {
        "span_id": "c",
        "attributes": {
            "mlflow.spanType": '"LLM"',
            "mlflow.spanInputs": {"system": "[REDACTED]", "messages": user("Hi")},
            "mlflow.chat.tokenUsage": {"input_tokens": n},
        },
    },
    "Langfuse, cut": lambda n: langfuse("<truncated due to size exceeding limit>", n),
    "Langfuse, cut, in a list": lambda n: langfuse("[<truncated due to size exceeding limit>]", n),
    "Langfuse, mask failed": lambda n: langfuse("<fully masked due to failed mask function>", n),
    "Langfuse, written by LiteLLM": lambda n: langfuse({"messages": user("redacted-by-litellm")}, n),
    "Langfuse, content left out": lambda n: langfuse(user(None), n),
    "Langfuse, parts left out": lambda n: langfuse([{"role": "system", "content": "x"}, *user([])], n),
    "GenAI, no parts": lambda n: genai(json.dumps([{"role": "user", "parts": []}]), n),
    "GenAI, no parts in one of several": lambda n: genai(
        [{"role": "system", "parts": [{"type": "text", "content": "x"}]}, {"role": "user", "parts": []}], n
    ),
    "GenAI, a part without content": lambda n: genai([{"role": "user", "parts": [{"type": "text"}]}], n),
    "GenAI, cut by a limit of the exporter": lambda n: genai('[{"role": "user", "parts": [{"type": "te', n),
    "GenAI, no messages": lambda n: genai("[]", n),
    "OpenLLMetry, no content": lambda n: genai(None, n) | {},
    "OpenInference, hidden": lambda n: openinference({"input.value": "__REDACTED__"}, n),
    "OpenInference, texts hidden": lambda n: openinference(
        {
            "input.value": "__REDACTED__",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "__REDACTED__",
        },
        n,
    ),
    "Helicone, left out": lambda n: helicone("", n),
    "Helicone, masked": lambda n: helicone({"messages": user("[REDACTED]")}, n),
}


@pytest.mark.parametrize("name", LOST)
def test_a_prompt_that_is_lost_has_lengths_or_none(name: str) -> None:
    known, unknown = LOST[name](9), LOST[name](None)
    (found,) = read_records([known])
    assert (found["outcome"], found["input_tokens"], found["messages_json"]) == (Outcome.REQUEST, 9, None)
    assert found["prompt"] is None
    (found,) = read_records([unknown])
    assert (found["outcome"], found["code"]) == (Outcome.QUARANTINED, "missing_field")
    assert found["field"]


@pytest.mark.parametrize("tokens", [0, "0", -3, 1.5, "x", True, 2**31, []])
def test_a_length_that_is_none_is_quarantined(tokens: object) -> None:
    for record in (litellm(user("redacted-by-litellm"), tokens), helicone("", tokens)):
        (found,) = read_records([record])
        assert (found["outcome"], found["field"] in ("prompt_tokens", "messages", "request_body")) == (
            Outcome.QUARANTINED,
            True,
        )


@pytest.mark.parametrize(
    "text",
    [
        "What does redacted-by-litellm mean?",
        "{}?",
        "default-message-value is printed",
        'Is "<truncated due to size exceeding limit>" an error?',
        "[REDACTED] and others",
    ],
)
def test_a_prompt_about_a_mark_is_a_prompt(text: str) -> None:
    for record in (litellm(user(text)), langfuse(user(text)), helicone({"messages": user(text)})):
        (found,) = read_records([record])
        assert json.loads(found["messages_json"]) == user(text)


def test_an_answer_without_content_is_no_loss() -> None:
    turns = [*user("One?"), {"role": "assistant", "content": ""}, *user("Two?")]
    (found,) = read_records([litellm(turns)])
    assert json.loads(found["messages_json"])[1]["content"] == ""
    called = [*user("One?"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    (found,) = read_records([litellm(called)])
    assert (found["outcome"], found["field"]) == (Outcome.ERROR, "messages[1].tool_calls")


def test_a_spend_log_with_its_body_is_a_request() -> None:
    sent = {"model": "proxy-name", "messages": user("Name a river."), "max_tokens": 7, "litellm_metadata": {}}
    record = litellm(
        "{}", proxy_server_request=json.dumps(sent), request_id="r", startTime=AT, team_id="search"
    )
    del record["id"]
    (found,) = read_records([record])
    assert json.loads(found["messages_json"]) == user("Name a river.")
    assert (found["custom_id"], found["max_tokens"], found["tenant"]) == ("r", 7, "search")
