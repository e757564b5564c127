"""Spans by the conventions of OpenInference (Phoenix, Arize), for the reader of spans.

The body of a call is in `input.value`; where that is none (frameworks write their own things there), the
messages are in `llm.input_messages.N.message.*` and the settings in `llm.invocation_parameters`. Attributes
come by dotted names (OTLP), nested (Phoenix's API), or as columns (its tables).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import any_form
from tasks.extract.forms.contract import Formed, image_part
from tasks.extract.readers.contract import Filtered, Logged, count, kind_name, label, mapping
from tasks.extract.readers.recorded import recorded_settings
from tasks.extract.readers.spans import call_of, flat, is_short, numbered
from tasks.extract.readers.stand_ins import has_mark, is_lost, lengths_only, parsed_text
from tasks.extract.readers.tools import with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND: Final = "openinference.span.kind"
_NESTED: Final = ("llm", "input", "openinference")
_DOTTED: Final = ("llm.", "input.", "openinference.")
_MESSAGES: Final = "llm.input_messages"
_TOKENS: Final = "llm.token_count.prompt"
_PARAMETERS: Final = "llm.invocation_parameters"
_IMAGE_URL: Final = "message_content.image.image.url"
_CONTENT: Final = ("messages", "prompt", "input", "contents")


def recognises(found: Mapping[str, Any]) -> bool:
    """Tell a span of these conventions by its attributes."""
    if KIND in found or any(name.startswith((_MESSAGES, "llm.prompts.", _PARAMETERS)) for name in found):
        return True
    nested = found.get("openinference")
    return isinstance(nested, dict) and isinstance(nested.get("span"), dict)


def read_span(record: Mapping[str, Any], given: Mapping[str, Any]) -> Logged | Filtered:
    """Make a span of kind LLM a request, by its lengths where its input is hidden.

    Parameters
    ----------
    record, given
        The span, and its attributes.
    """
    found = flat(
        {name: value for name, value in given.items() if name in _NESTED or name.startswith(_DOTTED)}
    )
    kind = found.get(KIND)
    if kind is not None and str(kind).upper() != "LLM":
        return Filtered(f"span of kind {kind_name(kind)}")
    parameters = mapping(found.get(_PARAMETERS))
    made = None if is_short(record) else _formed(found, parameters)
    model = label(parameters.get("model")) or label(found.get("llm.model_name"))
    logged = call_of(
        record,
        endpoint="chat" if made is None else made.endpoint,
        model=label(made.body.get("model")) if made is not None and made.body.get("model") else model,
        output_tokens=count(found.get("llm.token_count.completion")),
    )
    if made is None:
        logged.shape = lengths_only(found.get(_TOKENS), _TOKENS, "input.value")
        return logged
    body = with_tools(made.body, found, given)
    logged.body = {**body, "model": body.get("model") or model}
    logged.rest = made.rest
    return logged


def _formed(found: Mapping[str, Any], parameters: Mapping[str, Any]) -> Formed | None:
    """Return the body of a span's call; None if the span does not hold its prompt."""
    settings = {
        name: value
        for name, value in recorded_settings(parameters).items()
        # Frameworks add names of their own classes, and the model by another name.
        if not name.startswith("_") and name not in (*_CONTENT, "model_name")
    }
    value = parsed_text(found.get("input.value"))
    body = _body(value)
    if body is not None:
        return any_form.formed({**settings, **body})
    messages = [_message(item) for item in numbered(found, _MESSAGES)]
    if messages:
        return None if is_lost(messages) else any_form.formed({**settings, "messages": messages})
    prompts = [item.get("prompt.text") for item in numbered(found, "llm.prompts")]
    if prompts and not is_lost(prompts) and all(isinstance(text, str) for text in prompts):
        return Formed({**settings, "prompt": prompts}, "completions")
    if isinstance(value, str) and not is_lost(value):
        return Formed({**settings, "messages": [{"role": "user", "content": value}]})
    return None


def _body(value: object) -> dict[str, Any] | None:
    """Return `input.value` if it is the body of a call, with its prompt."""
    if not isinstance(value, dict):
        return None
    name = next((name for name in _CONTENT if value.get(name) is not None), None)
    if name is None or is_lost(value[name]) or has_mark(value):
        return None
    turns = value[name]
    if name == "messages" and not (
        isinstance(turns, list) and all(isinstance(turn, dict) and "role" in turn for turn in turns)
    ):
        return None
    return value


def _message(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of its attributes `message.*`."""
    found = {name.removeprefix("message."): value for name, value in given.items()}
    parts = [_part(item) for item in numbered(found, "contents")]
    message: dict[str, Any] = {"role": found.pop("role", None), "content": found.pop("content", None)}
    if parts:
        text = message["content"]
        message["content"] = parts if text is None else [{"type": "text", "text": text}, *parts]
    for name, value in found.items():
        top = name.partition(".")[0]
        if top == "tool_calls":
            message[top] = [*message.get(top, []), {name: value}]
        elif top != "contents":
            message[name] = value
    return message


def _part(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = item.get("message_content.type")
    if kind == "text" or (kind is None and "message_content.text" in item):
        return {"type": "text", "text": item.get("message_content.text")}
    if kind == "image" and isinstance(item.get(_IMAGE_URL), str):
        return image_part(item[_IMAGE_URL])
    return {"type": kind or "part"}
