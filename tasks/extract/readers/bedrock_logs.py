"""Bedrock's model invocation logs: `{schemaType, requestId, operation, modelId, input, output}`.

`input.inputBodyJson` is the body of an InvokeModel or a Converse call. A large one is kept in another object,
to which the log has the path; of it the lengths are known. Calls for embeddings and images are filtered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import bedrock
from tasks.extract.readers.contract import (
    Filtered,
    Logged,
    Reader,
    count,
    event_time,
    invalid,
    label,
    mapping,
    seconds,
    text_id,
)
from tasks.extract.readers.stand_ins import has_mark, lengths_only, parsed_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTS: Final = ("inputTokenCount", "cacheReadInputTokenCount", "cacheWriteInputTokenCount")
_PROMPTS: Final = frozenset({"messages", "prompt", "inputText"})
_MILLI: Final = 1e-3


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a log by its schema, or by its fields."""
    return record.get("schemaType") == "ModelInvocationLog" or (
        {"requestId", "operation", "modelId", "input"} <= record.keys()
    )


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a call of a text model a request, by its lengths where its body is kept elsewhere."""
    model = label(record.get("modelId"))
    if model is not None and "embed" in model.lower():
        return Filtered("call for embeddings")
    given = mapping(record.get("input"))
    output = mapping(record.get("output"))
    labels = mapping(record.get("requestMetadata"))
    metrics = mapping(mapping(output.get("outputBodyJson")).get("metrics"))
    logged = Logged(
        custom_id=text_id(record, "requestId"),
        rest={name: record[name] for name in ("operation", "errorCode") if record.get(name) is not None},
        requested_model=model,
        workload=label(labels.get("workload")),
        tenant=label(labels.get("tenant")),
        event_time=event_time(record, "timestamp"),
        output_tokens=count(output.get("outputTokenCount")),
        latency_s=seconds(metrics.get("latencyMs"), _MILLI),
    )
    body = parsed_text(given.get("inputBodyJson"))
    if body in (None, "", {}) or has_mark(body):
        tokens = [given.get(name) for name in _COUNTS]
        known = sum(count(value) or 0 for value in tokens[1:]) + (count(tokens[0]) or 0)
        asked = tokens[0] if count(tokens[0]) is None else known
        logged.shape = lengths_only(asked, "input.inputTokenCount", "input.inputBodyJson")
        return logged
    if not isinstance(body, dict):
        raise invalid("input.inputBodyJson", "must be an object")
    if not _PROMPTS & body.keys():
        return Filtered("call of no text model")
    made = bedrock.formed(body)
    logged.body = {**made.body, "model": model or made.body.get("model")}
    logged.endpoint, logged.rest = made.endpoint, {**logged.rest, **made.rest}
    return logged


READER = Reader("bedrock-logs", "Bedrock model invocation logs", matches, read)
