"""BurstGPT traces.

Columns: `Timestamp, Session ID, Elapsed time, Model, Request tokens, Response tokens, Total tokens, Log
Type`.

Older files have neither session nor elapsed time. `Timestamp` counts seconds from the start of the trace, so
it is no time of day and passes through. A response of 0 tokens is a call that failed: its length is not
known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import Logged, Reader, Shape, label, required_count, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

_REST: Final = ("Timestamp", "Session ID")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell the trace by its columns."""
    return {"Timestamp", "Request tokens", "Response tokens"} <= record.keys()


def read(record: Mapping[str, Any]) -> Logged:
    """Make a row a request of known lengths, its log type the workload."""
    answer = required_count(record, "Response tokens")
    return Logged(
        shape=Shape(required_count(record, "Request tokens")),
        endpoint="completions",
        rest={name: record[name] for name in _REST if record.get(name)},
        requested_model=label(record.get("Model")),
        workload=label(record.get("Log Type")),
        output_tokens=answer or None,
        latency_s=seconds(record.get("Elapsed time")) if answer else None,
    )


READER = Reader("burstgpt", "BurstGPT traces", matches, read)
