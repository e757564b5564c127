"""A batch file as teams have them, with all endpoints and mistakes: every `custom_id` comes back once."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tasks.publish.output_lines import error_line, output_line
from tests.support.demo_nights import answer, night_request, opened, write_lines

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
    line("text", {"model": "m", "prompt": "Count from 3", "max_tokens": 8, "echo": True}, "/v1/completions"),
    line("response", {"model": "gpt-4o", "input": "x", "max_output_tokens": 8}, "/v1/responses"),
]
REFUSED = [
    chat("image", [{"role": "user", "content": LOOK}]),
    chat("audio", modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}),
    chat("no-messages", []),
    chat("wrong-role", [{"role": "robot", "content": "x"}]),
    chat("hot", temperature=3),
    chat("unknown", favourite_colour="red"),
    chat("no-such-token", logit_bias={"100000000": 1}),
    chat("two-limits", max_completion_tokens=9),
    line("moderation", {"input": "x"}, "/v1/moderations"),
    line("wrong-url", {"messages": ASKED}, 5),
    line("get", {"messages": ASKED}, method="GET"),
    {"custom_id": "no-body", "method": "POST", "url": "/v1/chat/completions"},
    {"custom_id": "no-url", "method": "POST", "body": {"max_tokens": 3}},
    line("text-body", json.dumps({"messages": ASKED})),
    {"custom_id": 404, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": ASKED}},
    {"custom_id": "only"},
]
EITHER = [
    chat("schema", response_format=SCHEMA),
    chat("json", response_format={"type": "json_object"}),
    chat("regex", guided_regex="[0-9]+"),
    chat("tools", tools=[TOOL], tool_choice="auto"),
    chat("required", tools=[TOOL], tool_choice="required", parallel_tool_calls=False),
    chat("called", CALLED, tools=[TOOL]),
    line("embedding", {"model": "text-embedding-3-small", "input": "x", "dimensions": 8}, "/v1/embeddings"),
    line("embeddings", {"model": "e", "input": ["x", "y"], "encoding_format": "base64"}, "/v1/embeddings"),
    line("response-tools", {"model": "gpt-4o", "input": "x", "tools": [TOOL]}, "/v1/responses"),
]
"""Answered as soon as they can be; until then errors with a code."""
BROKEN = ['{"custom_id": "cut", "method": "POST", "url": "/v1/chat/compl', "not json", "[1, 2]", ""]
AGAIN = chat("plain", [{"role": "user", "content": "Another text under a name that was used."}])


def test_every_custom_id_comes_back_once(tmp_path: Path) -> None:
    records = [*ANSWERED, *REFUSED, *EITHER]
    long = chat("long", [{"role": "user", "content": "x" * (17 << 20)}])
    lines = [*map(json.dumps, [*records, long, AGAIN]), *BROKEN]
    write_lines(tmp_path / "logs", "batch.jsonl", lines)
    with opened(night_request(tmp_path), tmp_path / "scratch") as night:
        answer(night)
        outputs = [output_line(row, "m") for row in night.read_table("outputs").to_pylist()]
        errors = [error_line(row) for row in night.read_table("errors").to_pylist()]
        parts = [night.fetch(part) for part in night.parts("quarantine")]
        account = night.log.state.steps["extract"].results["account"]
    names = Counter(one["custom_id"] for one in (*outputs, *errors))
    assert names == Counter(str(one["custom_id"]) for one in (*records, long))
    assert {one["custom_id"] for one in ANSWERED} <= {one["custom_id"] for one in outputs}
    forms = {one["custom_id"]: one["response"]["body"]["object"] for one in outputs}
    wanted = ("chat.completion", "text_completion", "response")
    assert tuple(forms[name] for name in ("plain", "text", "response")) == wanted
    refused = {one["custom_id"]: one["error"]["code"] for one in errors}
    assert {str(one["custom_id"]) for one in (*REFUSED, long)} <= refused.keys()
    assert all(refused.values())
    assert refused["long"] == "line_too_long"
    assert refused["moderation"] == refused["wrong-url"].replace("invalid_field", "unsupported_url")
    assert refused["no-such-token"] == "invalid_parameter"
    # What is in quarantine is no JSON, no object, or has a name that came back already.
    codes = Counter(row["code"] for path in parts for row in pq.read_table(path).to_pylist())
    assert codes == {"invalid_json": 2, "not_an_object": 1, "duplicate_custom_id_conflict": 1}
    assert account["requests"] == len(outputs) + len(errors) == len(records) + 1
    assert account["lines"] == account["requests"] + account["quarantined"] + account["blank"]
