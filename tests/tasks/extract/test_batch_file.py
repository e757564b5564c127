"""A batch file as teams have them, with all endpoints and mistakes: every `custom_id` comes back once."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import jsonschema
import pyarrow.parquet as pq

from tasks.publish.output_lines import error_line, output_line
from tests.support.demo_nights import answer, night_request, opened, write_lines
from tests.support.tool_templates import HERMES
from tests.tasks.requests.test_tools import model_with

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "ticket",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"team": {"enum": ["billing", "returns"]}, "urgent": {"type": "boolean"}},
            "required": ["team", "urgent"],
            "additionalProperties": False,
        },
    },
}
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Find an order.",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    },
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
ASKED = [{"role": "user", "content": "Count from 3 to 9."}]
LOOK = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
ELSEWHERE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
SHOWN = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": PIXEL}]
TEXT_FORMAT = {"type": "json_schema", **SCHEMA["json_schema"]}
CALLED = [
    *ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": '{"id": "7"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "shipped"},
]


def line(name: str, body: object, url: object = "/v1/chat/completions", **more: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body, **more}


def chat(name: str, messages: object = ASKED, **fields: Any) -> dict[str, Any]:
    return line(name, {"model": "gpt-4o-mini", "max_tokens": 8, "messages": messages, **fields})


ANSWERED = [
    chat("plain"),
    chat("plain-limit", max_completion_tokens=8, max_tokens=None),
    chat("effort", reasoning_effort="low"),
    chat("penalties", presence_penalty=0.5, frequency_penalty=-0.2, logit_bias={"11": -5}),
    chat("of-vllm", min_p=0.05, min_tokens=2, repetition_penalty=1.1, chat_template_kwargs={"a": True}),
    chat("several", n=2, temperature=0.8, seed=4, logprobs=True, top_logprobs=2),
    chat("labels", user="u-7", metadata={"team": "billing"}, store=True, service_tier="auto"),
    chat("schema", response_format=SCHEMA, max_tokens=40),
    chat("json", response_format={"type": "json_object"}),
    chat("regex", guided_regex="[0-9]+"),
    chat("choice", structured_outputs={"choice": ["yes", "no"]}),
    chat("tools", tools=[TOOL], tool_choice="auto"),
    chat("required", tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=60),
    chat("named", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "find_order"}}),
    chat("called", CALLED, tools=[TOOL]),
    line("text", {"model": "m", "prompt": "Count from 3", "max_tokens": 8, "echo": True}, "/v1/completions"),
    line(
        "text-ids", {"model": "m", "prompt": [11, 12, 13], "max_tokens": 8, "logprobs": 1}, "/v1/completions"
    ),
    line("response", {"model": "gpt-4o", "input": "x", "max_output_tokens": 8}, "/v1/responses"),
    line("response-tools", {"model": "gpt-4o", "input": "x", "tools": [TOOL]}, "/v1/responses"),
    line("response-schema", {"input": ASKED, "text": {"format": TEXT_FORMAT}}, "/v1/responses"),
    line("embedding", {"model": "text-embedding-3-small", "input": "x", "dimensions": 8}, "/v1/embeddings"),
    line("embeddings", {"model": "e", "input": ["x", "y"], "encoding_format": "base64"}, "/v1/embeddings"),
    line("embedding-ids", {"model": "e", "input": [[11, 12], [13]], "user": "u-7"}, "/v1/embeddings"),
]
REFUSED = [
    chat("image", [{"role": "user", "content": LOOK}]),
    chat("image-elsewhere", [{"role": "user", "content": [*LOOK[:1], ELSEWHERE]}]),
    line("response-image", {"input": [{"role": "user", "content": SHOWN}]}, "/v1/responses"),
    chat("audio", modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}),
    chat("no-messages", []),
    chat("wrong-role", [{"role": "robot", "content": "x"}]),
    chat("hot", temperature=3),
    chat("unknown", favourite_colour="red"),
    chat("no-such-token", logit_bias={"100000000": 1}),
    chat("two-limits", max_completion_tokens=9),
    chat("no-such-tool", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}),
    chat("no-schema", response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
    line("no-input", {"model": "e"}, "/v1/embeddings"),
    line("empty-input", {"model": "e", "input": ["x", ""]}, "/v1/embeddings"),
    line("too-wide", {"model": "e", "input": "x", "dimensions": 3072}, "/v1/embeddings"),
    line("too-long", {"model": "e", "input": "count on " * 9000}, "/v1/embeddings"),
    line("moderation", {"input": "x"}, "/v1/moderations"),
    line("rerank", {"model": "r", "query": "x", "documents": ["y"]}, "/v1/rerank"),
    line("wrong-url", {"messages": ASKED}, 5),
    line("get", {"messages": ASKED}, method="GET"),
    {"custom_id": "no-body", "method": "POST", "url": "/v1/chat/completions"},
    {"custom_id": "no-url", "method": "POST", "body": {"max_tokens": 3}},
    {"custom_id": "either", "method": "POST", "body": {"model": "m", "input": "x"}},
    line("text-body", json.dumps({"messages": ASKED})),
    {"custom_id": 404, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": ASKED}},
    {"custom_id": "only"},
]
BROKEN = ['{"custom_id": "cut", "method": "POST", "url": "/v1/chat/compl', "not json", "[1, 2]", ""]
AGAIN = chat("plain", [{"role": "user", "content": "Another text under a name that was used."}])


TOKENS = {"prompt_tokens": int, "total_tokens": int}
GENERATED = {**TOKENS, "completion_tokens": int}
TYPES: dict[str, dict[str, Any]] = {
    "chat.completion": {
        "id": str,
        "created": int,
        "model": str,
        "choices": [{"index": int, "finish_reason": str, "message": {"role": str}}],
        "usage": GENERATED,
    },
    "text_completion": {
        "id": str,
        "created": int,
        "model": str,
        "choices": [{"index": int, "finish_reason": str, "text": str}],
        "usage": GENERATED,
    },
    "response": {
        "id": str,
        "created_at": int,
        "model": str,
        "status": str,
        "output": [{"id": str, "type": str}],
        "parallel_tool_calls": bool,
        "tools": list,
        "usage": {"input_tokens": int, "output_tokens": int, "total_tokens": int},
    },
    "list": {
        "model": str,
        "data": [{"index": int, "object": str, "embedding": (list, str)}],
        "usage": TOKENS,
    },
}
"""What each API's own description requires of a body, by its field `object`."""


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Return where a body is not of its type."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [where]
        return [one for key in wanted for one in differences(found.get(key), wanted[key], f"{where}.{key}")]
    if isinstance(wanted, list):
        if not isinstance(found, list) or not found:
            return [where]
        return [one for item in found for one in differences(item, wanted[0], f"{where}[]")]
    return [] if isinstance(found, wanted) else [where]


def test_every_custom_id_comes_back_once(tmp_path: Path) -> None:
    """By a model that calls tools, and of which the job says how its embeddings are made."""
    records = [*ANSWERED, *REFUSED]
    long = chat("long", [{"role": "user", "content": "x" * (17 << 20)}])
    lines = [*map(json.dumps, [*records, long, AGAIN]), *BROKEN]
    write_lines(tmp_path / "logs", "batch.jsonl", lines)
    request = night_request(tmp_path, model_with(tmp_path / "model", HERMES), pooling="last")
    with opened(request, tmp_path / "scratch") as night:
        answer(night)
        outputs = [output_line(row, "m") for row in night.read_table("outputs").to_pylist()]
        errors = [error_line(row) for row in night.read_table("errors").to_pylist()]
        parts = [night.fetch(part) for part in night.parts("quarantine")]
        account = night.log.state.steps["extract"].results["account"]
    names = Counter(one["custom_id"] for one in (*outputs, *errors))
    assert names == Counter(str(one["custom_id"]) for one in (*records, long))
    assert {one["custom_id"] for one in outputs} == {one["custom_id"] for one in ANSWERED}
    bodies = {one["custom_id"]: one["response"]["body"] for one in outputs}
    assert {body["object"] for body in bodies.values()} == TYPES.keys()
    for name, body in bodies.items():
        assert not differences(body, TYPES[body["object"]]), name
    assert [len(bodies[name]["data"]) for name in ("embedding", "embeddings", "embedding-ids")] == [1, 2, 2]
    jsonschema.validate(
        json.loads(bodies["schema"]["choices"][0]["message"]["content"]), SCHEMA["json_schema"]["schema"]
    )
    assert bodies["choice"]["choices"][0]["message"]["content"] in ("yes", "no")
    refused = {one["custom_id"]: one["error"]["code"] for one in errors}
    assert refused.keys() == {str(one["custom_id"]) for one in (*REFUSED, long)}
    assert all(refused.values())
    assert refused["long"] == "line_too_long"
    assert {refused[name] for name in ("moderation", "rerank", "either")} == {"unsupported_url"}
    assert refused["wrong-url"] == "invalid_field"
    assert refused["no-such-token"] == "invalid_parameter"
    assert {refused[name] for name in ("image", "image-elsewhere", "response-image")} == {
        "unsupported_parameter"
    }
    assert (refused["too-long"], refused["empty-input"]) == ("context_length_exceeded", "empty_prompt")
    # What is in quarantine is no JSON, no object, or has a name that came back already.
    codes = Counter(row["code"] for path in parts for row in pq.read_table(path).to_pylist())
    assert codes == {"invalid_json": 2, "not_an_object": 1, "duplicate_custom_id_conflict": 1}
    assert account["requests"] == len(outputs) + len(errors) == len(records) + 1
    assert account["lines"] == account["requests"] + account["quarantined"] + account["blank"]


def test_a_body_that_lacks_something_is_told() -> None:
    body = {"model": "m", "data": [{"index": 0, "object": "embedding"}], "usage": {"prompt_tokens": 1}}
    assert differences(body, TYPES["list"]) == [".data[].embedding", ".usage.total_tokens"]
    assert differences({**body, "data": []}, TYPES["list"]) == [".data", ".usage.total_tokens"]
