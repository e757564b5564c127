"""Helicone export: the call's own body in `request_body`, with counts and times beside it.

Bodies and properties may come as JSON text. The properties `workload` and `tenant` fill the columns of that
name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.readers.contract import (
    Logged,
    Reader,
    Shape,
    count,
    event_time,
    invalid,
    label,
    mapping,
    parsed_json,
    required_count,
    seconds,
    text_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_MILLI = 1e-3


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a row by the names of its request columns."""
    return {"request_id", "request_created_at", "request_body"} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged:
    """Make a row a request, by its lengths where the body was omitted."""
    properties = mapping(record.get("request_properties"))
    logged = Logged(
        custom_id=text_id(record, "request_id"),
        requested_model=label(record.get("request_model")),
        workload=label(properties.get("workload")),
        tenant=label(properties.get("tenant")),
        event_time=event_time(record, "request_created_at"),
        output_tokens=count(record.get("completion_tokens")),
        latency_s=seconds(record.get("delay_ms"), _MILLI),
    )
    given = record.get("request_body")
    body = parsed_json(given) if isinstance(given, str) and given else given
    if not body and given in (None, "", {}, "{}"):
        logged.shape = Shape(required_count(record, "prompt_tokens"))
        return logged
    if not isinstance(body, dict):
        raise invalid("request_body", "must be an object")
    logged.endpoint = "completions" if "prompt" in body and "messages" not in body else "chat"
    logged.body = (
        body if "model" in body or not logged.requested_model else {**body, "model": logged.requested_model}
    )
    return logged


READER = Reader("helicone", "Helicone exports", matches, read)
