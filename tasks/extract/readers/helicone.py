"""Helicone export: the call's own body in `request_body`, with counts and times beside it.

Bodies may be of OpenAI, Anthropic, Gemini or Bedrock; they and properties may come as JSON text. The
properties `workload` and `tenant` fill the columns of that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.extract.forms import any_form
from tasks.extract.forms.any_form import is_embedding
from tasks.extract.forms.contract import Formed
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

if TYPE_CHECKING:
    from collections.abc import Mapping

_MILLI = 1e-3


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a row by the names of its request columns."""
    return {"request_id", "request_created_at", "request_body"} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged | Filtered:
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
    if (not body and given in (None, "", {}, "{}")) or has_mark(body):
        logged.shape = lengths_only(record.get("prompt_tokens"), "prompt_tokens", "request_body")
        return logged
    if not isinstance(body, dict):
        raise invalid("request_body", "must be an object")
    if "input" in body and "messages" not in body and is_embedding(body):
        return Filtered("call for embeddings")
    made = any_form.formed(body) or Formed(body)
    logged.endpoint, logged.rest = made.endpoint, made.rest
    logged.body = (
        made.body
        if "model" in made.body or not logged.requested_model
        else {**made.body, "model": logged.requested_model}
    )
    return logged


READER = Reader("helicone", "Helicone exports", matches, read)
