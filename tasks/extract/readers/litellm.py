"""LiteLLM's S3 logs: one object per call, the standard logging payload as JSON.

Times are seconds since 1970. `messages` holds the chat, or the prompt of a text completion; where the proxy
redacts it, the lengths remain. Of `metadata` only team and workload are used: it also holds key digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import (
    Logged,
    Reader,
    Shape,
    between,
    count,
    event_time,
    label,
    mapping,
    missing,
    optional_time,
    parsed_json,
    required_count,
    text_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAT: Final = frozenset({"completion", "acompletion"})
TEXT: Final = frozenset({"text_completion", "atext_completion"})
REDACTED: Final = "redacted-by-litellm"
_REST: Final = ("call_type", "status", "end_user", "request_tags", "cache_hit")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a payload by its kind of call and its times."""
    return "call_type" in record and "startTime" in record and "messages" in record


def read(record: Mapping[str, Any]) -> Logged | None:
    """Make a call a request; embeddings, images and the like are none."""
    kind = record.get("call_type")
    if kind not in CHAT | TEXT:
        return None
    start = event_time(record, "startTime")
    metadata = mapping(record.get("metadata"))
    answered = record.get("status") != "failure"
    logged = Logged(
        endpoint="chat" if kind in CHAT else "completions",
        custom_id=text_id(record, "id"),
        rest={name: record[name] for name in _REST if record.get(name) is not None},
        requested_model=label(record.get("model")),
        workload=label(metadata.get("workload")),
        tenant=label(metadata.get("user_api_key_team_alias")) or label(metadata.get("user_api_key_team_id")),
        event_time=start,
        output_tokens=count(record.get("completion_tokens")) if answered else None,
        latency_s=between(start, optional_time(record, "endTime")) if answered else None,
    )
    content = record.get("messages")
    if content is None:
        raise missing("messages")
    if _redacted(content):
        logged.shape = Shape(required_count(record, "prompt_tokens"))
        return logged
    if isinstance(content, str) and logged.endpoint == "chat":
        content = parsed_json(content) or [{"role": "user", "content": content}]
    parameters = mapping(record.get("model_parameters"))
    name = "messages" if logged.endpoint == "chat" else "prompt"
    logged.body = {**parameters, "model": record.get("model"), name: content}
    return logged


def _redacted(content: object) -> bool:
    if isinstance(content, list):
        return bool(content) and all(mapping(item).get("content") == REDACTED for item in content)
    return content == REDACTED


READER = Reader("litellm", "LiteLLM S3 logs", matches, read)
