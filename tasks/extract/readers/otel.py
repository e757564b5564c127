"""OpenTelemetry spans of generative AI calls, one JSON object each, by the GenAI semantic conventions.

Attributes may stand in `attributes`, as an object or as OTLP's list of `{key, value}`, or beside the span's
own fields. The prompt is read from `gen_ai.input.messages` (`{role, parts: [{type, content}]}`, with
`gen_ai.system_instructions`), or from the older `gen_ai.prompt` and `gen_ai.prompt.N.role / .content`; spans
without content give lengths. Spans of other operations than chat and text completion count as filtered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import (
    Logged,
    Reader,
    Shape,
    between,
    count,
    event_time,
    invalid,
    label,
    missing,
    optional_time,
    parsed_json,
    required_count,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

REQUEST: Final = {
    "model": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "seed": "seed",
    "choice.count": "n",
    "stop_sequences": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
CHAT: Final = frozenset({"chat", "generate_content"})
TEXT: Final = frozenset({"text_completion", "completion"})
_OLD_PROMPT: Final = re.compile(r"gen_ai\.prompt\.(\d{1,6})\.(role|content)")
_NANO: Final = 1e-9
_OTLP_VALUES: Final = ("stringValue", "boolValue", "doubleValue")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a span by an attribute of the conventions."""
    return any(name.startswith("gen_ai.") for name in _attributes(record))


def read(record: Mapping[str, Any]) -> Logged | None:
    """Make a span of a model call a request."""
    found = _attributes(record)
    kind = found.get("gen_ai.operation.name") or found.get("llm.request.type") or "chat"
    if kind not in CHAT | TEXT or not any(name.startswith("gen_ai.") for name in found):
        return None
    start = _time(record, "startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", "timestamp")
    end = _time(record, "endTimeUnixNano", "end_time_unix_nano", "end_time", "endTime", exact=False)
    logged = Logged(
        endpoint="completions" if kind in TEXT else "chat",
        custom_id=_span_id(record),
        requested_model=label(found.get("gen_ai.request.model")),
        event_time=start,
        latency_s=between(start, end),
        output_tokens=count(_first(found, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")),
    )
    content = _prompt(found, logged.endpoint)
    if content is None:
        lengths = _first(found, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
        if lengths is None:
            raise missing("gen_ai.input.messages")
        logged.shape = Shape(
            required_count({"gen_ai.usage.input_tokens": lengths}, "gen_ai.usage.input_tokens")
        )
        return logged
    body = {
        name: found[f"gen_ai.request.{key}"]
        for key, name in REQUEST.items()
        if f"gen_ai.request.{key}" in found
    }
    logged.body = {**body, ("prompt" if logged.endpoint == "completions" else "messages"): content}
    return logged


def _attributes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    given = record.get("attributes")
    if isinstance(given, dict):
        return given
    if isinstance(given, list):
        pairs = (item for item in given if isinstance(item, dict) and isinstance(item.get("key"), str))
        return {item["key"]: _otlp(item.get("value")) for item in pairs}
    return record


def _otlp(value: object) -> object:
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
        return [_otlp(item) for item in items["values"]]
    return None


def _prompt(found: Mapping[str, Any], endpoint: str) -> object:
    """Return the messages or the prompt of a span; None if it has none."""
    given = found.get("gen_ai.input.messages")
    if given is not None:
        messages = _json_list(given, "gen_ai.input.messages")
        system = found.get("gen_ai.system_instructions")
        if system is not None:
            parts = _json_list(system, "gen_ai.system_instructions")
            messages = [{"role": "system", "parts": parts}, *messages]
        chat = [_message(message) for message in messages]
        return chat if endpoint == "chat" else "".join(str(text) for text in map(_plain, chat))
    old = found.get("gen_ai.prompt")
    if old is None:
        return _numbered(found, endpoint)
    if endpoint == "completions":
        return old
    parsed = parsed_json(old) if isinstance(old, str) else old
    return parsed if isinstance(parsed, list) else [{"role": "user", "content": old}]


def _numbered(found: Mapping[str, Any], endpoint: str) -> object:
    turns: dict[int, dict[str, Any]] = {}
    for name, value in found.items():
        if match := _OLD_PROMPT.fullmatch(name):
            turns.setdefault(int(match[1]), {})[match[2]] = value
    if not turns:
        return None
    if endpoint == "completions":
        return turns[min(turns)].get("content")
    return [{"role": turn.get("role"), "content": turn.get("content")} for _, turn in sorted(turns.items())]


def _json_list(value: object, name: str) -> list[Any]:
    found = parsed_json(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise invalid(name, "must be a list")
    return found


def _message(message: object) -> object:
    if not isinstance(message, dict) or "parts" not in message:
        return message
    rest = {name: value for name, value in message.items() if name not in {"parts", "finish_reason"}}
    parts = message["parts"]
    return {**rest, "content": [_part(part) for part in parts] if isinstance(parts, list) else parts}


def _part(part: object) -> object:
    if isinstance(part, dict) and part.get("type") == "text":
        return {"type": "text", "text": part.get("content")}
    return part


def _plain(message: object) -> object:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _first(found: Mapping[str, Any], *names: str) -> object:
    return next((found[name] for name in names if found.get(name) is not None), None)


def _span_id(record: Mapping[str, Any]) -> str | None:
    context = record.get("context")
    place = context if isinstance(context, dict) else record
    trace = label(place.get("trace_id")) or label(place.get("traceId"))
    span = label(place.get("span_id")) or label(place.get("spanId"))
    return f"{trace}/{span}" if trace and span else span


def _time(record: Mapping[str, Any], *names: str, exact: bool = True) -> datetime | None:
    for name in names:
        if record.get(name) is not None:
            unit = _NANO if "nano" in name.lower() else 1.0
            return (event_time if exact else optional_time)(record, name, unit)
    return None


READER = Reader("otel", "OpenTelemetry GenAI spans", matches, read)
