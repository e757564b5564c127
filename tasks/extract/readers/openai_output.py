"""OpenAI Batch output: `{id, custom_id, response: {status_code, body: {model, created, usage}}, error}`.

The prompt is not in it, so a line gives a request of known lengths; with several choices, the mean length of
one. A call that failed has none: it becomes an error row with the server's status and reason. So does an
answer that is none: one that the server gave up (`finish_reason` is `abort`), or one without a token.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ErrorCode, RequestError, bounded
from tasks.extract.readers.contract import (
    Filtered,
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

_OK: Final = range(200, 300)
_TRY_AGAIN: Final = frozenset({408, 409, 425, 429})
_LATE: Final = frozenset({"batch_expired", "batch_cancelled", "server_error", "rate_limit_exceeded"})
# Validators quote what they were given.
_QUOTES: Final = re.compile(r"[\n\r]|[,({\[]?\s*['\"]?input(?:_value)?['\"]?\s*[:=]\s*['\"{\[]")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell an answered line by its response; a request has a body instead."""
    return "custom_id" in record and "response" in record and "body" not in record


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make the lengths of an answered line a request; an embedding is none."""
    response = mapping(record.get("response"))
    body = mapping(response.get("body"))
    if body.get("object") == "list":
        return Filtered("answer of embeddings")
    logged = Logged(
        endpoint="completions" if body.get("object") == "text_completion" else "chat",
        custom_id=text_id(record, "custom_id"),
        requested_model=label(body.get("model")),
        event_time=event_time(body, "created"),
    )
    logged.error = _failure(record, response, body)
    if logged.error is not None:
        return logged
    usage = mapping(body.get("usage"))
    if not usage:
        raise missing("response.body.usage")
    # /v1/responses counts under other names.
    given, made = (
        ("input_tokens", "output_tokens")
        if "input_tokens" in usage
        else ("prompt_tokens", "completion_tokens")
    )
    tokens, choices = count(usage.get(made)), _choices(body)
    aborted = any(choice.get("finish_reason") == "abort" for choice in choices)
    if aborted or tokens == 0:
        message = "the server gave the request up (abort)" if aborted else "the server answered with no token"
        logged.error = RequestError(ErrorCode.FAILED_BEFORE, None, message, retryable=True)
        return logged
    several = max(len(choices), 1)
    logged.shape = Shape(required_count(usage, given), choices=several)
    # Rounded up: none is empty.
    logged.output_tokens = None if tokens is None else -(-tokens // several)
    return logged


def _choices(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = body.get("choices")
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _failure(
    record: Mapping[str, Any], response: Mapping[str, Any], body: Mapping[str, Any]
) -> RequestError | None:
    """Return why a call failed, None if it did not."""
    status = count(response.get("status_code"))
    given = record.get("error") or body.get("error")
    if isinstance(given, dict) and all(value is None for value in given.values()):
        given = None
    if not given and (status is None or status in _OK):
        return None
    inner = mapping(given)
    # Servers nest them: {"error": {"error": {"message": ...}}}.
    inner = mapping(inner.get("error")) or inner
    reason = label(inner.get("message")) or label(inner.get("error")) or label(given if not inner else None)
    code = inner.get("code") or inner.get("type")
    kind = code if isinstance(code, str) else label(inner.get("type"))
    if status is None:
        status = count(inner.get("code"))
    told = [f"status {status}" if status is not None and status not in _OK else None, kind]
    if reason is not None:
        told.append(_QUOTES.split(reason, maxsplit=1)[0].strip())
    message = ": ".join(text for text in told if text) or "no reason is given"
    again = kind in _LATE or (status is not None and (status in _TRY_AGAIN or status >= 500))
    return RequestError(ErrorCode.FAILED_BEFORE, label(inner.get("param")), bounded(message), retryable=again)


READER = Reader("openai-output", "OpenAI Batch output", matches, read)
