"""Spans by OpenTelemetry's GenAI conventions and by those of OpenLLMetry, for the reader of spans.

The prompt is in `gen_ai.input.messages` (`{role, parts: [{type, content}]}`, with
`gen_ai.system_instructions`) of the span or of one of its events, in `ai.prompt.messages` (AI SDK), or in the
older `gen_ai.prompt` and `gen_ai.prompt.N.role / .content`. Messages whose content was not recorded have no
parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.readers.contract import Filtered, Logged, count, invalid, kind_name, label, parsed_json
from tasks.extract.readers.recorded import recorded_settings
from tasks.extract.readers.spans import attributes, call_of, first, is_short, numbered
from tasks.extract.readers.stand_ins import has_mark, is_lost, lengths_only, parsed_text
from tasks.extract.readers.tools import with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.requests.sampling import Endpoint

REQUEST: Final = "gen_ai.request."
"""Beginning of the settings of a call; those without another name here have OpenAI's."""
_NAMES: Final = {
    "choice.count": "n",
    "stop_sequences": "stop",
    "is_stream": "stream",
    "streaming": "stream",
    "id": "request_id",
}
_OTHER: Final = {
    "gen_ai.openai.request.response_format": "response_format",
    "gen_ai.openai.request.seed": "seed",
    "gen_ai.openai.request.service_tier": "service_tier",
    "llm.chat.stop_sequences": "stop",
    "llm.frequency_penalty": "frequency_penalty",
    "llm.presence_penalty": "presence_penalty",
    "llm.request.repetition_penalty": "repetition_penalty",
    "llm.top_k": "top_k",
}
"""Settings elsewhere."""
CHAT: Final = frozenset({"chat", "generate_content"})
TEXT: Final = frozenset({"text_completion", "completion"})
_INPUT: Final = "gen_ai.input.messages"
_SYSTEM: Final = "gen_ai.system_instructions"
_EVENT_CONTENT: Final = (_INPUT, _SYSTEM, "gen_ai.prompt", "gen_ai.tool.definitions")
_TOKENS: Final = "gen_ai.usage.input_tokens"
_OF_OBJECTS: Final = ("ai.generateObject", "ai.streamObject")
"""Operations of the AI SDK whose answer is an object of a schema."""
_OLD: Final = "gen_ai.prompt"
_LOST: Final = object()
"""Instead of a prompt: it was left out, cut or masked."""


def recognises(found: Mapping[str, Any]) -> bool:
    """Tell a span of these conventions by its attributes."""
    return any(name.startswith("gen_ai.") for name in found)


def read_span(record: Mapping[str, Any], given: Mapping[str, Any]) -> Logged | Filtered:
    """Make a span of a model call a request, by its lengths where it has no content.

    Parameters
    ----------
    record, given
        The span, and its attributes.
    """
    found = {**_of_events(record), **given}
    kind = str(found.get("gen_ai.operation.name") or found.get("llm.request.type") or "chat")
    if kind not in CHAT | TEXT:
        return Filtered(f"span of operation {kind_name(kind)}")
    endpoint: Endpoint = "completions" if kind in TEXT else "chat"
    logged = call_of(
        record,
        endpoint=endpoint,
        model=label(found.get("gen_ai.request.model")),
        output_tokens=count(first(found, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")),
    )
    content = None if is_short(record) else prompt_of(found, endpoint)
    if content is None:
        logged.shape = lengths_only(first(found, _TOKENS, "gen_ai.usage.prompt_tokens"), _TOKENS, _INPUT)
        return logged
    body = {**_settings(found), ("prompt" if endpoint == "completions" else "messages"): content}
    logged.body = with_tools(body, found)
    return logged


def prompt_of(found: Mapping[str, Any], endpoint: Endpoint) -> object:
    """Return the messages or the prompt of a span; None if it does not hold them."""
    content = _prompt(found, endpoint)
    return None if content is _LOST or is_lost(content) else content


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    given = {}
    for name, value in found.items():
        if name in _OTHER:
            given[_OTHER[name]] = value
    for name, value in found.items():
        if name.startswith(REQUEST):
            short = name.removeprefix(REQUEST)
            given[_NAMES.get(short, short)] = value
    if "structured_output_schema" in given:
        given.setdefault("response_format", _form_of(given.pop("structured_output_schema")))
    form = given.get("response_format")
    if form in ("text", None):
        given.pop("response_format", None)
    if str(found.get("ai.operationId")).startswith(_OF_OBJECTS):
        # The schema is kept on the span around it.
        given.setdefault("response_format", "json_schema")
    kind = found.get("gen_ai.output.type")
    if kind not in (None, "", "text"):
        given.setdefault("response_format", kind)
    return recorded_settings(given)


def _form_of(value: object) -> object:
    """Return a response format of what OpenLLMetry records of one: itself as JSON text, or its schema."""
    found = parsed_text(value)
    if isinstance(found, dict) and found.get("type") in ("json_object", "json_schema", "text"):
        return found
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": found}}


def _of_events(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content that the events of a span have instead of the span."""
    events = record.get("events")
    found: dict[str, Any] = {}
    for event in events if isinstance(events, list) else []:
        if isinstance(event, dict):
            given = attributes(event)
            found |= {name: given[name] for name in _EVENT_CONTENT if given.get(name) is not None}
    return found


def _prompt(found: Mapping[str, Any], endpoint: Endpoint) -> object:
    given = found.get(_INPUT)
    if given is not None:
        messages = _json_list(given, _INPUT)
        system = found.get(_SYSTEM)
        parts = [] if system is None else _json_list(system, _SYSTEM)
        if (
            messages is None
            or parts is None
            or is_lost(messages)
            or _without_text(messages)
            or has_mark(parts)
        ):
            return _LOST
        if parts:
            messages = [{"role": "system", "parts": parts}, *messages]
        chat = [_message(message) for message in messages]
        return chat if endpoint == "chat" else _completion(chat)
    of_sdk = parsed_text(found.get("ai.prompt.messages"))
    if isinstance(of_sdk, list):
        return of_sdk
    old = found.get(_OLD)
    if old is None:
        return _numbered(found, endpoint)
    if endpoint == "completions":
        return old
    parsed = parsed_text(old)
    return parsed if isinstance(parsed, list) else [{"role": "user", "content": old}]


def _numbered(found: Mapping[str, Any], endpoint: Endpoint) -> object:
    turns = numbered(found, _OLD)
    if not turns:
        return None
    if endpoint == "completions":
        return [turn.get("content") for turn in turns]
    return [_old_message(turn) for turn in turns]


def _old_message(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of its attributes; parts come as JSON text."""
    message: dict[str, Any] = {"role": turn.get("role"), "content": turn.get("content")}
    parts = parsed_text(message["content"])
    if isinstance(parts, list) and parts and all(isinstance(part, dict) and "type" in part for part in parts):
        message["content"] = parts
    for name, value in turn.items():
        top = name.partition(".")[0]
        if top not in message:
            message[top] = [{name: value}] if top != name else value
    return message


def _json_list(value: object, name: str) -> list[Any] | None:
    """Return a list, given as such or as JSON text; None for a text that was cut."""
    found = parsed_json(value) if isinstance(value, str) else value
    if found is None:
        return None
    if not isinstance(found, list):
        raise invalid(name, "must be a list")
    return found


def _without_text(messages: list[Any]) -> bool:
    """Tell messages with a part of text of which only the type was kept."""
    return any(
        isinstance(part, dict)
        and part.get("type") == "text"
        and part.get("content", part.get("text")) is None
        for message in messages
        if isinstance(message, dict) and isinstance(message.get("parts"), list)
        for part in message["parts"]
    )


def _message(message: object) -> object:
    if not isinstance(message, dict) or "parts" not in message:
        return message
    rest = {name: value for name, value in message.items() if name not in {"parts", "finish_reason"}}
    parts = message["parts"]
    return {**rest, "content": [_part(part) for part in parts] if isinstance(parts, list) else parts}


def _part(part: object) -> object:
    if isinstance(part, dict) and part.get("type") == "text":
        return {"type": "text", "text": part.get("content", part.get("text"))}
    return part


def _completion(chat: list[Any]) -> object:
    """Return the prompt of a completion whose forms are all written as messages of the user.

    A message is one of several prompts, one with a number a token; what is no text stays, to be refused.
    """
    texts = [_texts(message) for message in chat]
    flat = [text for own in texts for text in own]
    if all(isinstance(text, str) for text in flat):
        prompts = ["".join(own) for own in texts]
        return prompts[0] if len(prompts) == 1 else prompts
    return flat[0] if len(flat) == 1 and isinstance(flat[0], list) else flat


def _texts(message: object) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else message
    return [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        for part in (content if isinstance(content, list) else [content])
    ]
