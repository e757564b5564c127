"""Spans as Langfuse's clients send them, for the reader of spans: observations in `langfuse.observation.*`.

Whoever keeps what the clients send, such as a collector before Langfuse, has these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers import langfuse
from tasks.extract.readers.contract import Filtered, Logged, label
from tasks.extract.readers.spans import call_of

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "langfuse.observation."
_METADATA: Final = f"{PREFIX}metadata"
_FIELDS: Final = {
    "input": "input",
    "output": "output",
    "model.name": "model",
    "model.parameters": "model_parameters",
    "usage_details": "usage_details",
}
"""Attribute -> field of an observation; values that are objects come as JSON text in both."""


def recognises(found: Mapping[str, Any]) -> bool:
    """Tell a span of these clients by its attributes."""
    return any(name.startswith(PREFIX) for name in found)


def read_span(record: Mapping[str, Any], found: Mapping[str, Any]) -> Logged | Filtered:
    """Make a generation a request, as the observation that Langfuse makes of the span.

    Parameters
    ----------
    record, found
        The span, and its attributes.
    """
    observation: dict[str, Any] = {
        field: found[PREFIX + name] for name, field in _FIELDS.items() if PREFIX + name in found
    }
    observation["type"] = str(found.get(f"{PREFIX}type") or "span").upper()
    observation["name"] = label(record.get("name"))
    observation["metadata"] = found.get(_METADATA) or {
        name.removeprefix(f"{_METADATA}."): value
        for name, value in found.items()
        if name.startswith(f"{_METADATA}.")
    }
    logged = langfuse.READER.read(observation)
    if isinstance(logged, Filtered):
        return logged
    call = call_of(record, endpoint=logged.endpoint, model=None, output_tokens=None)
    logged.custom_id, logged.event_time, logged.latency_s = call.custom_id, call.event_time, call.latency_s
    return logged
