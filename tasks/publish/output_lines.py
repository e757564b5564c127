"""Rows of the tables outputs and errors as lines of an OpenAI Batch output file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import orjson

from tasks.publish.embedding_bodies import embedding_body
from tasks.publish.openai_logprobs import chat_logprobs, text_logprobs
from tasks.publish.response_bodies import response_body

if TYPE_CHECKING:
    from collections.abc import Mapping

OUTPUT_COLUMNS: Final = (
    "request_id",
    "custom_id",
    "source_uri",
    "source_line",
    "endpoint",
    "passthrough_json",
    "text",
    "finish_reason",
    "choices",
    "tool_calls_json",
    "embeddings",
    "usage",
    "finished_at",
    "run_key",
)
"""What `output_line` needs of a row."""

ERROR_COLUMNS: Final = (
    "request_id",
    "custom_id",
    "source_uri",
    "source_line",
    "passthrough_json",
    "code",
    "field",
    "message",
    "retryable",
)
"""What `error_line` needs of a row."""

# Line ends to some readers although JSON allows them in text.
_LINE_ENDS: Final = {end.encode(): f"\\u{ord(end):04x}".encode() for end in "\u0085\u2028\u2029"}


def output_line(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the line of an answered request.

    `metadata` comes back in the body as OpenAI does it; all other fields of the sender without effect, and
    where the request came from, are under `nightblend`, which OpenAI's own clients ignore.

    Parameters
    ----------
    row
        A row of the table outputs, at least `OUTPUT_COLUMNS`.
    model
        Name of the model that answered.
    """
    kept = _kept(row)
    if row["endpoint"] == "responses":
        body = response_body(row, model, kept.pop("responses", {}))
    elif row["endpoint"] == "embeddings":
        encoding = kept.get("body", {}).pop("encoding_format", None)
        body = embedding_body(row, model, encoding)
    else:
        body = _completion(row, model)
    if "metadata" in kept.get("body", {}):
        body["metadata"] = kept["body"].pop("metadata")
    response = {"status_code": 200, "request_id": row["request_id"], "body": body}
    return {**_head(row), "response": response, "error": None, "nightblend": _origin(row, kept)}


def _completion(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the body of an answer to chat or text completions."""
    chat = row["endpoint"] == "chat"
    choices = row.get("choices") or [{**row, "logprobs": None}]
    told = row.get("tool_calls_json")
    calls = json.loads(told) if told else [None] * len(choices)
    usage = row["usage"]
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{row['request_id'][:24]}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(row["finished_at"].timestamp()),
        "model": model,
        "choices": [_choice(index, choice, calls[index], chat=chat) for index, choice in enumerate(choices)],
        "usage": {
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
            "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
        },
    }


def _choice(
    index: int, choice: Mapping[str, Any], calls: list[dict[str, Any]] | None, *, chat: bool
) -> dict[str, Any]:
    message = {"role": "assistant", "content": choice["text"], "refusal": None}
    reason = choice["finish_reason"]
    if calls:
        message |= {"content": choice["text"] or None, "tool_calls": calls}
        # An answer that was cut may have whole calls before the cut.
        reason = "tool_calls" if reason == "stop" else reason
    logprobs, form = choice["logprobs"], chat_logprobs if chat else text_logprobs
    return {
        "index": index,
        **({"message": message} if chat else {"text": choice["text"]}),
        "logprobs": None if logprobs is None else form(logprobs),
        "finish_reason": reason,
    }


def error_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a request without an answer, from a row of the table errors (`ERROR_COLUMNS`)."""
    error = {
        "code": row["code"],
        "message": row["message"],
        "param": row["field"],
        "retryable": row["retryable"],
    }
    kept = _kept(row)
    kept.pop("responses", None)
    return {**_head(row), "response": None, "error": error, "nightblend": _origin(row, kept)}


def dump_line(line: Mapping[str, Any]) -> bytes:
    """Write a line as JSON in UTF-8, with its line end and no other."""
    try:
        data = orjson.dumps(line)
    except TypeError:
        # A sender's own number may be longer than 64 bits.
        data = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    if not data.isascii():
        for end, escaped in _LINE_ENDS.items():
            data = data.replace(end, escaped)
    return data + b"\n"


def _head(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": f"batch_req_{row['request_id'][:32]}", "custom_id": row["custom_id"]}


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(row["passthrough_json"]) if row["passthrough_json"] else {}


def _origin(row: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    origin = {
        "request_id": row["request_id"],
        "source_uri": row["source_uri"],
        "source_line": row["source_line"],
    }
    return origin | {name: fields for name, fields in kept.items() if fields}
