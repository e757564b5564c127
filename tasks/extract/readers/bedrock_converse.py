"""Records of Bedrock's Converse calls: the request's fields, with those of the response beside them, if kept.

`{modelId, messages, system, inferenceConfig, ...}` and `{output, stopReason, usage, metrics}`; or the same as
`{request, response}`. A field that is of neither is taken for one of the request, and is refused by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import bedrock
from tasks.extract.readers.contract import Logged, Reader, count, event_time, mapping, seconds, text_id
from tasks.extract.readers.stand_ins import has_mark, is_lost, lengths_only

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES: Final = ("requestId", "recordId", "custom_id", "id")
_TIME: Final = "timestamp"
_RESPONSE: Final = frozenset(
    {"output", "stopReason", "usage", "metrics", "trace", "additionalModelResponseFields", "ResponseMetadata"}
)
_ASIDE: Final = frozenset({*_NAMES, *_RESPONSE, _TIME, "request", "response"})
_COUNTS: Final = ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
_MILLI: Final = 1e-3


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a record by its model and its messages."""
    request = record.get("request")
    return any(
        isinstance(place, dict) and {"modelId", "messages"} <= place.keys() for place in (record, request)
    )


def read(record: Mapping[str, Any]) -> Logged:
    """Make a record the chat that it asks for."""
    request = mapping(record.get("request")) or {
        name: value for name, value in record.items() if name not in _ASIDE
    }
    response = {
        **{name: record[name] for name in _RESPONSE if name in record},
        **mapping(record.get("response")),
    }
    usage = mapping(response.get("usage"))
    logged = Logged(
        custom_id=next(filter(None, (text_id(record, name) for name in _NAMES)), None),
        event_time=event_time(record, _TIME),
        output_tokens=count(usage.get("outputTokens")),
        latency_s=seconds(mapping(response.get("metrics")).get("latencyMs"), _MILLI),
    )
    if has_mark(request) or (usage and is_lost(request.get("messages"))):
        tokens = [count(usage.get(name)) or 0 for name in _COUNTS]
        logged.shape = lengths_only(sum(tokens), "usage.inputTokens", "messages")
        return logged
    made = bedrock.formed(request)
    logged.body, logged.endpoint, logged.rest = made.body, made.endpoint, made.rest
    return logged


READER = Reader("bedrock-converse", "Records of Bedrock's Converse calls", matches, read)
