"""Langfuse observations: those of `type` GENERATION, with the fields of its export or of its API.

`input` is a list of messages, an object with `messages` or `prompt`, or a text; it may come as JSON text, as
`model_parameters` and `usage_details` do. Other observations (spans, events) count as filtered. The name of a
generation is its workload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    seconds,
    text_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


def matches(record: Mapping[str, Any]) -> bool:
    """Tell an observation by its type and its trace."""
    known = {"GENERATION", "SPAN", "EVENT"}
    return record.get("type") in known and bool(
        {"trace_id", "traceId", "start_time", "startTime"} & record.keys()
    )


def read(record: Mapping[str, Any]) -> Logged | None:
    """Make a generation a request."""
    if record.get("type") != "GENERATION":
        return None
    usage = mapping(record.get("usage_details")) or mapping(record.get("usageDetails"))
    start_name = "start_time" if "start_time" in record else "startTime"
    start = event_time(record, start_name)
    end = optional_time(record, "end_time") or optional_time(record, "endTime")
    logged = Logged(
        custom_id=text_id(record, "id"),
        requested_model=label(record.get("provided_model_name")) or label(record.get("model")),
        workload=label(mapping(record.get("metadata")).get("workload")) or label(record.get("name")),
        event_time=start,
        output_tokens=count(usage.get("output")),
        latency_s=seconds(record.get("latency"))
        if record.get("latency") is not None
        else between(start, end),
    )
    given = record.get("input")
    if isinstance(given, str):
        parsed = parsed_json(given)
        given = parsed if isinstance(parsed, dict | list | str) else given
    if given is None:
        if "input" not in usage:
            raise missing("input")
        logged.shape = Shape(required_count(usage, "input"))
        return logged
    body = {**mapping(record.get("model_parameters")), **mapping(record.get("modelParameters"))}
    if isinstance(given, dict) and ("messages" in given or "prompt" in given):
        body.update(given)
    else:
        body["messages"] = [given] if isinstance(given, dict) else given
        if isinstance(given, str):
            body["messages"] = [{"role": "user", "content": given}]
    if logged.requested_model:
        body["model"] = logged.requested_model
    logged.endpoint = "chat" if "messages" in body else "completions"
    logged.body = body
    return logged


READER = Reader("langfuse", "Langfuse observations", matches, read)
