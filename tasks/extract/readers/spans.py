"""Spans as tracing tools write them: attributes, identities, times, by whatever names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import (
    Logged,
    between,
    event_time,
    label,
    mapping,
    optional_time,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tasks.requests.sampling import Endpoint

_NANO: Final = 1e-9
_OTLP_VALUES: Final = ("stringValue", "boolValue", "doubleValue")
_OF_EVENT: Final = ("timestamp", "timeUnixNano", "time_unix_nano", "observedTimeUnixNano")
"""When an event was made, which is when the answer was there."""
_COLUMN: Final = "attributes."
"""Beginning of the columns of attributes in a table of spans."""


def attributes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the attributes of a span or of an event by their names.

    They stand in `attributes`, as an object, as its JSON text or as OTLP's list of `{key, value}`; in columns
    `attributes.NAME`; or beside the span's own fields.
    """
    given = record.get("attributes")
    if isinstance(given, str):
        given = mapping(given)
    if isinstance(given, dict):
        return given
    if isinstance(given, list):
        pairs = (item for item in given if isinstance(item, dict) and isinstance(item.get("key"), str))
        return {item["key"]: any_value(item.get("value")) for item in pairs}
    columns = {
        name.removeprefix(_COLUMN): value
        for name, value in record.items()
        if name.startswith(_COLUMN) and value is not None
    }
    return columns or record


def call_of(
    record: Mapping[str, Any], *, endpoint: Endpoint, model: str | None, output_tokens: int | None
) -> Logged:
    """Return a span's call without its content: what it is called, when it was made, how long it took."""
    start = _time(record, "startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", *_OF_EVENT)
    end = _time(record, "endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime", exact=False)
    return Logged(
        endpoint=endpoint,
        custom_id=span_id(record),
        requested_model=model,
        event_time=start,
        latency_s=between(start, end),
        output_tokens=output_tokens,
    )


def first(found: Mapping[str, Any], *names: str) -> object:
    """Return the first of the attributes that is there."""
    return next((found[name] for name in names if found.get(name) is not None), None)


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested attributes by dotted names, such as `llm.input_messages.0.message.role`."""
    out: dict[str, Any] = {}
    for name, value in found.items():
        _flatten(name, value, out)
    return out


def is_short(record: Mapping[str, Any]) -> bool:
    """Tell a span that has lost attributes to the limit of its exporter; nobody knows which."""
    lost = first(record, "droppedAttributesCount", "dropped_attributes_count", "dropped_attributes")
    return lost not in (None, 0, "0", "")


def numbered(found: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return the attributes `PREFIX.N.NAME` as objects in the order of N; none if one of them is missing."""
    items: dict[int, dict[str, Any]] = {}
    for name, value in found.items():
        if name.startswith(prefix):
            index, _, rest = name[len(prefix) :].removeprefix(".").partition(".")
            if rest and re.fullmatch(r"\d{1,6}", index) and value is not None:
                items.setdefault(int(index), {})[rest] = value
    return [items[index] for index in range(len(items))] if max(items, default=-1) < len(items) else []


def _flatten(name: str, value: object, out: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, out)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            _flatten(f"{name}.{index}", item, out)
    else:
        out[name] = value


def any_value(value: object) -> object:
    """Return the plain value of an OTLP `AnyValue`."""
    if not isinstance(value, dict):
        return value
    for name in _OTLP_VALUES:
        if name in value:
            return value[name]
    if "intValue" in value:
        # 64-bit numbers are texts in OTLP's JSON.
        number = value["intValue"]
        return int(number) if isinstance(number, str) and re.fullmatch(r"-?\d{1,19}", number) else number
    items = value.get("arrayValue")
    if isinstance(items, dict) and isinstance(items.get("values"), list):
        return [any_value(item) for item in items["values"]]
    pairs = value.get("kvlistValue")
    if isinstance(pairs, dict) and isinstance(pairs.get("values"), list):
        return attributes({"attributes": pairs["values"]})
    return None


def span_id(record: Mapping[str, Any]) -> str | None:
    """Return `TRACE/SPAN` of a span or of what was made in it, whatever the two are called."""
    context = record.get("context")
    place = context if isinstance(context, dict) else record
    trace, span = (
        next(filter(None, (label(place.get(name)) for name in names)), None)
        for names in (
            ("trace_id", "traceId", "context.trace_id"),
            ("span_id", "spanId", "context.span_id"),
        )
    )
    return f"{trace}/{span}" if trace and span else span


def _time(record: Mapping[str, Any], *names: str, exact: bool = True) -> datetime | None:
    for name in names:
        if record.get(name) is not None:
            read = event_time if exact else optional_time
            return read(record, name, _NANO) if "nano" in name.lower() else read(record, name)
    return None
