"""Langfuse observations: those of `type` GENERATION, with the fields of its export or of its API.

`input` is a list of messages, an object with the body of a call, or a text; it may come as JSON text, as
`model_parameters` and `usage_details` do. Other observations (spans, events) are filtered. The name of a
generation is its workload.

Langfuse's wrapper of the OpenAI client records five settings for every call, at fixed values where the caller
set nothing. Whether the caller set such a value cannot be known, and the caller mostly did not, so that they
count as not set: the run's defaults apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import any_form, responses
from tasks.extract.forms.contract import Formed
from tasks.extract.readers.contract import (
    Filtered,
    Logged,
    Outline,
    Own,
    Reader,
    between,
    count,
    event_time,
    kind_name,
    label,
    mapping,
    missing,
    optional_time,
    parsed_json,
    seconds,
    text_id,
)
from tasks.extract.readers.recorded import recorded_settings
from tasks.extract.readers.stand_ins import is_lost, lengths_only, parsed_text
from tasks.extract.readers.tools import LOOKED_AT, may_define, with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

TYPES: Final = frozenset(
    {
        "AGENT",
        "CHAIN",
        "EMBEDDING",
        "EVALUATOR",
        "EVENT",
        "GENERATION",
        "GUARDRAIL",
        "RETRIEVER",
        "SPAN",
        "TOOL",
    }
)
_WRAPPER: Final = {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
"""What the wrapper records where the caller set nothing, beside one of `_LIMITS` in every call."""
_LIMITS: Final = frozenset({"max_tokens", "max_completion_tokens"})
_PLAIN: Final = {
    "input": ("input", "promptTokens", "prompt_tokens", "input_tokens"),
    "output": ("output", "completionTokens", "completion_tokens", "output_tokens"),
}
"""Names of the tokens of each side in usage, of Langfuse and of APIs."""
_PLAIN_NAMES: Final = frozenset(
    {"input", "output", "total", "promptTokens", "completionTokens", "totalTokens"}
)
"""Names in usage that are no part of either side."""
_BODY: Final = frozenset({"messages", "prompt", "contents", "input"})
_OF_METADATA: Final = ("workload", "response_format")
_DECIDES: Final = (
    "input",
    "model",
    "modelParameters",
    "model_parameters",
    "name",
    "provided_model_name",
)
"""What decides on a request, of metadata and of the record; attributes of metadata may as well."""
_USAGE: Final = ("usage_details", "usageDetails", "usage")
_OWN: Final = ("id", "start_time", "startTime", "end_time", "endTime", "latency", *_USAGE)
_ITEMS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning"})
_ITEM_PARTS: Final = frozenset({"input_text", "output_text", "input_image", "input_file"})


def matches(record: Mapping[str, Any]) -> bool:
    """Tell an observation by its type and its trace."""
    return str(record.get("type")) in TYPES and bool(
        {"trace_id", "traceId", "start_time", "startTime"} & record.keys()
    )


def read(record: Mapping[str, Any]) -> Logged | Filtered:
    """Make a generation a request, by its lengths where its input was cut, masked or left out."""
    kind = record.get("type")
    if kind != "GENERATION":
        return Filtered(f"observation of type {kind_name(kind)}")
    metadata = mapping(record.get("metadata"))
    asked, answered = _tokens(record)
    start, latency = _times(record)
    logged = Logged(
        custom_id=text_id(record, "id"),
        requested_model=label(record.get("provided_model_name")) or label(record.get("model")),
        workload=label(metadata.get("workload")) or label(record.get("name")),
        event_time=start,
        output_tokens=answered,
        latency_s=latency,
    )
    given = record.get("input")
    if isinstance(given, str):
        parsed = parsed_json(given)
        given = parsed if isinstance(parsed, dict | list | str) else given
    if is_lost(given):
        if given is None and asked is None:
            raise missing("input")
        logged.shape = lengths_only(asked, "usage_details.input", "input")
        return logged
    parameters = {**mapping(record.get("model_parameters")), **mapping(record.get("modelParameters"))}
    settings = _without_wrapper_defaults(recorded_settings(parameters), parameters)
    if isinstance(given, str) and _is_of_wrapper(parameters) and _is_text(record.get("output")):
        # It records a chat as messages, and its answer as a message.
        made = Formed({**settings, "prompt": given}, "completions")
    else:
        made = _formed(given, settings)
    attributes = mapping(metadata.get("attributes"))
    body = with_tools(made.body, record, metadata, attributes)
    wanted = parsed_text(metadata.get("response_format") or attributes.get("gen_ai.output.type"))
    if wanted not in (None, "", "text", {}):
        body.setdefault("response_format", wanted)
    if logged.requested_model:
        body["model"] = logged.requested_model
    logged.endpoint, logged.body, logged.rest = made.endpoint, body, made.rest
    return logged


def _key(record: Mapping[str, Any]) -> list[Any] | None:
    """Tell a generation in short, unless its input is a JSON text."""
    metadata = mapping(record.get("metadata"))
    attributes = mapping(metadata.get("attributes"))
    if record.get("type") != "GENERATION" or isinstance(record.get("input"), str):
        return None
    if may_define(record) or may_define(metadata) or may_define(attributes):
        return None
    wanted = attributes.get("gen_ai.output.type")
    return [*map(record.get, _DECIDES), *map(metadata.get, _OF_METADATA), wanted]


def _told(record: Mapping[str, Any]) -> Own:
    """Return a generation's name, its time, and length and latency of its answer."""
    start, latency = _times(record)
    return text_id(record, "id"), start, _answered(record), latency


def _times(record: Mapping[str, Any]) -> tuple[datetime | None, float | None]:
    """Return when a generation began, and the seconds that it took."""
    start = event_time(record, "start_time" if "start_time" in record else "startTime")
    took = record.get("latency")
    if took not in (None, ""):
        return start, seconds(took)
    end = optional_time(record, "end_time") or optional_time(record, "endTime")
    return start, between(start, end)


def _is_of_wrapper(parameters: Mapping[str, Any]) -> bool:
    return parameters.keys() >= _WRAPPER.keys() and bool(_LIMITS & parameters.keys())


def _is_text(output: object) -> bool:
    """Tell the text of a completion from a message, which may come as JSON text."""
    found = parsed_text(output)
    is_message = isinstance(found, dict) and bool({"role", "type"} & found.keys())
    return isinstance(output, str) and not is_message and not isinstance(found, list)


def _without_wrapper_defaults(settings: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if not _is_of_wrapper(given):
        return settings
    return {name: value for name, value in settings.items() if _WRAPPER.get(name) != value}


def _formed(given: object, settings: dict[str, Any]) -> Formed:
    """Return the body that an input and settings are of."""
    if isinstance(given, dict) and _BODY & given.keys():
        body = {**settings, **given}
        return any_form.formed(body) or Formed(body)
    if isinstance(given, list) and any(_is_item(item) for item in given):
        return responses.formed({**settings, "input": given})
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], str):
        given = given[0]
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return Formed({**settings, "messages": [given] if isinstance(given, dict) else given})


def _is_item(item: object) -> bool:
    """Tell an item of `/v1/responses` from a message of a chat."""
    if not isinstance(item, dict):
        return False
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    return str(item.get("type")) in _ITEMS or any(
        isinstance(part, dict) and str(part.get("type")) in _ITEM_PARTS for part in parts
    )


def _tokens(record: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the tokens of prompt and answer, as far as they are known."""
    usage = _usage(record)
    return _sums(usage) if usage else (None, None)


def _answered(record: Mapping[str, Any]) -> int | None:
    """Return the tokens of the answer alone."""
    usage = _usage(record)
    return _plain(usage, "output") if usage.keys() <= _PLAIN_NAMES else _sums(usage)[1]


def _usage(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first usage that counts tokens, an empty one if there is none."""
    for name in _USAGE:
        usage = mapping(record.get(name))
        if usage and usage.get("unit") in (None, "", "TOKENS"):
            return usage
    return {}


def _sums(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Add up the tokens of each side.

    Langfuse takes cached, reasoning, audio and other tokens out of `input` and `output` and puts them beside
    (`input_cached_tokens`); those who write usage themselves may leave them in. The total tells which;
    without one they count as taken out.
    """
    if usage.keys() <= _PLAIN_NAMES:
        return _plain(usage, "input"), _plain(usage, "output")
    sides = [_side(usage, "input"), _side(usage, "output")]
    if not sides[0][1] and not sides[1][1]:
        return sides[0][0], sides[1][0]
    total = next((usage[name] for name in ("total", "totalTokens", "total_tokens") if name in usage), None)
    whole = [None if plain is None and not details else (plain or 0) + details for plain, details in sides]
    choices = [
        (whole[0], whole[1]),
        (whole[0], sides[1][0]),
        (sides[0][0], whole[1]),
        (sides[0][0], sides[1][0]),
    ]
    for asked, answered in choices:
        if count(total) is not None and (asked or 0) + (answered or 0) == count(total):
            return asked, answered
    return choices[0]


def _side(usage: Mapping[str, Any], side: str) -> tuple[int | None, int]:
    """Return the plain tokens of one side, and those that were put beside them."""
    names = _PLAIN[side]
    details = [
        count(value) or 0
        for name, value in usage.items()
        if name not in names and (name.startswith(f"{side}_") or name.endswith(f"_{side}_tokens"))
    ]
    return _plain(usage, side), sum(details)


def _plain(usage: Mapping[str, Any], side: str) -> int | None:
    for name in _PLAIN[side]:
        if usage.get(name) is not None:
            return count(usage[name])
    return None


_LOOKED_AT: Final = {
    **dict.fromkeys(("type", *_DECIDES, *LOOKED_AT), ()),
    "metadata": (*_OF_METADATA, "attributes", *LOOKED_AT),
}
READER = Reader(
    "langfuse", "Langfuse observations", matches, read, outline=Outline(_LOOKED_AT, _OWN, _key, _told)
)
