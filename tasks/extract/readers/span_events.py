"""Events of model calls (log records of OTLP), which hold the content where the spans do not.

`gen_ai.client.inference.operation.details` holds a whole call; the older `gen_ai.user.message` and the like
hold a message each, and the settings are on the span alone. Events are joined to the span they were made in,
where it lies in the same object (`tasks.extract.parse.events`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.readers import genai
from tasks.extract.readers.contract import Filtered, Logged, kind_name
from tasks.extract.readers.spans import any_value, attributes, span_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DETAILS: Final = "gen_ai.client.inference.operation.details"
_JOINED: Final = "nightblend.joined"
_ROLES: Final = {
    f"gen_ai.{role}.message": role for role in ("system", "developer", "user", "assistant", "tool")
}
_NAMES: Final = ("eventName", "event_name")


def event_name(record: Mapping[str, Any]) -> str | None:
    """Return the name of an event of a model call; None for any other record."""
    if "body" not in record:
        return None
    name = next((record[name] for name in _NAMES if record.get(name)), None)
    if name is None:
        name = attributes(record).get("event.name")
    return name if isinstance(name, str) and name.startswith("gen_ai.") else None


def has_content(name: str) -> bool:
    """Tell whether an event of this name holds messages that were sent."""
    return name == DETAILS or name in _ROLES


def call_id(record: Mapping[str, Any]) -> str | None:
    """Return the identity of the span that a record is, or was made in."""
    return span_id(record)


def with_events(span: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a span that has the content of its events as one event of its own."""
    found: dict[str, Any] = {}
    messages = []
    for event in events:
        name = event_name(event)
        if name == DETAILS:
            found |= attributes(event)
        elif name is not None:
            messages.append(_message(_ROLES[name], any_value(event.get("body"))))
    if messages:
        found.setdefault("gen_ai.input.messages", messages)
    own = span.get("events")
    return {**span, "events": [*(own if isinstance(own, list) else []), {"attributes": found}]}


def _message(role: str, body: object) -> dict[str, Any]:
    """Return the message of an event; of a tool's result its `id` is that of the call."""
    made = {"role": role, **(body if isinstance(body, dict) else {})}
    if made["role"] == "tool" and "id" in made:
        made["tool_call_id"] = made.pop("id")
    return made


def marked(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as one that was joined to its span."""
    return {**event, _JOINED: True}


def read_event(record: Mapping[str, Any], name: str) -> Logged | Filtered:
    """Make an event that holds a whole call a request; one that was joined is filtered.

    Raises
    ------
    QuarantineError
        For a message whose span is not in the object: nobody knows what else was asked for.
    """
    if record.get(_JOINED):
        return Filtered("event, read with its span")
    if name == DETAILS:
        return genai.read_span(record, attributes(record))
    if name not in _ROLES:
        return Filtered(f"event {kind_name(name)}")
    message = "a message whose span, which has the settings, is not in this object: keep both in one"
    raise QuarantineError(QuarantineCode.MISSING_FIELD, "spanId", message)
