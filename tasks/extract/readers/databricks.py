"""Databricks inference tables: a row per call, with the bodies of `request` and `response` as JSON text.

Bodies may be of OpenAI, Anthropic or Gemini. Calls of other models (data frames, embeddings) are filtered. A
request that was too large for the table is null; of it the lengths are known, if the response was kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import any_form
from tasks.extract.readers.contract import (
    Filtered,
    Logged,
    Reader,
    count,
    event_time,
    invalid,
    label,
    mapping,
    parsed_json,
    seconds,
    text_id,
)
from tasks.extract.readers.stand_ins import has_mark, lengths_only
from tasks.extract.readers.tools import with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_MILLI: Final = 1e-3
_REST: Final = ("client_request_id", "status_code")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a row by its columns."""
    return {"databricks_request_id", "request"} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a row a request, by its lengths where the body is not in the table."""
    response = mapping(record.get("response"))
    usage = mapping(response.get("usage"))
    metadata = mapping(record.get("request_metadata"))
    durations = (record.get("execution_time_ms"), record.get("execution_duration_ms"))
    model = label(metadata.get("model_name")) or label(record.get("served_entity_name"))
    logged = Logged(
        custom_id=text_id(record, "databricks_request_id"),
        rest={name: record[name] for name in _REST if record.get(name) is not None},
        requested_model=model,
        event_time=_time(record),
        output_tokens=_first(usage, "completion_tokens", "output_tokens"),
        latency_s=next((seconds(value, _MILLI) for value in durations if value is not None), None),
    )
    given = record.get("request")
    body = parsed_json(given) if isinstance(given, str) else given
    if body in (None, "", {}) or has_mark(body):
        tokens = _first(usage, "prompt_tokens", "input_tokens")
        logged.shape = lengths_only(tokens, "response.usage.prompt_tokens", "request")
        return logged
    if not isinstance(body, dict):
        raise invalid("request", "must be an object, or its JSON text")
    made = None if response.get("object") == "list" else any_form.formed(body)
    if made is None:
        return Filtered("call of no text model")
    own = with_tools(made.body, metadata)
    logged.body = own if own.get("model") or not model else {**own, "model": model}
    logged.endpoint, logged.rest = made.endpoint, {**logged.rest, **made.rest}
    return logged


def _time(record: Mapping[str, Any]) -> datetime | None:
    if record.get("timestamp_ms") is not None:
        return event_time(record, "timestamp_ms", _MILLI)
    return event_time(record, "request_time")


def _first(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((count(usage[name]) for name in names if usage.get(name) is not None), None)


READER = Reader("databricks", "Databricks inference tables", matches, read)
