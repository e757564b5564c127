"""OpenAI Batch output: `{id, custom_id, response: {status_code, body: {model, created, usage}}, error}`.

The prompt is not in it, so a line gives a request of known lengths. A call that failed has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.readers.contract import (
    Logged,
    Reader,
    Shape,
    count,
    event_time,
    label,
    mapping,
    missing,
    required_count,
    text_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell an answered line by its response; a request has a body instead."""
    return "custom_id" in record and "response" in record and "body" not in record


def read(record: Mapping[str, Any]) -> Logged:
    """Make the lengths of an answered line a request."""
    response = mapping(record.get("response"))
    body = mapping(response.get("body"))
    usage = mapping(body.get("usage"))
    if not usage:
        raise missing("response.body.usage")
    # /v1/responses counts under other names.
    given, made = (
        ("input_tokens", "output_tokens")
        if "input_tokens" in usage
        else ("prompt_tokens", "completion_tokens")
    )
    return Logged(
        shape=Shape(required_count(usage, given)),
        endpoint="completions" if body.get("object") == "text_completion" else "chat",
        custom_id=text_id(record, "custom_id"),
        requested_model=label(body.get("model")),
        event_time=event_time(body, "created"),
        output_tokens=count(usage.get(made)),
    )


READER = Reader("openai-output", "OpenAI Batch output", matches, read)
