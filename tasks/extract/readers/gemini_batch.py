"""Batch lines of Gemini (`{key, request}`) and of Vertex AI (`{request}`), and Vertex AI's output lines.

`request` is the body of a `generateContent` call, as an object or as its JSON text (tables); on Vertex AI it
may be one of Anthropic's messages. An output line has the same request with the `response` beside it, of
which the counts are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import any_form
from tasks.extract.readers.contract import (
    Filtered,
    Logged,
    Reader,
    count,
    invalid,
    label,
    mapping,
    missing,
    optional_time,
    text_id,
)
from tasks.extract.readers.stand_ins import has_mark, is_lost, lengths_only, parsed_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN: Final = frozenset({"key", "custom_id", "request", "response", "status", "processed_time", "error"})
_FORMS: Final = frozenset({"contents", "anthropic_version"})
_TOKENS: Final = "response.usageMetadata.promptTokenCount"


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a line by the form of its request."""
    return bool(_FORMS & mapping(record.get("request")).keys())


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a line the chat that it asks for."""
    request = parsed_text(record.get("request"))
    if request is None:
        raise missing("request")
    if not isinstance(request, dict):
        raise invalid("request", "must be an object")
    response = mapping(record.get("response"))
    usage = mapping(response.get("usageMetadata"))
    answer = [count(usage.get(name)) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    logged = Logged(
        custom_id=text_id(record, "key") or text_id(record, "custom_id"),
        rest={name: value for name, value in record.items() if name not in _OWN},
        requested_model=label(response.get("modelVersion")),
        event_time=optional_time(response, "createTime"),
        output_tokens=None if answer[0] is None else answer[0] + (answer[1] or 0),
    )
    if "contents" in request and (is_lost(request["contents"]) or has_mark(request)):
        logged.shape = lengths_only(usage.get("promptTokenCount"), _TOKENS, "request.contents")
        return logged
    made = any_form.formed(request)
    if made is None:
        return Filtered("call of no text model")
    logged.body, logged.endpoint, logged.rest = made.body, made.endpoint, {**logged.rest, **made.rest}
    return logged


READER = Reader("gemini-batch", "Gemini and Vertex AI batches", matches, read)
