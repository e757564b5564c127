"""MLflow's spans, for the reader of spans: a trace's spans of models, with the call in `mlflow.spanInputs`.

Values of attributes are JSON texts. The inputs are the body of a call, in the form of the client that was
traced, or LangChain's messages, with the settings in `invocation_params`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import any_form
from tasks.extract.forms.contract import Formed
from tasks.extract.readers.contract import Filtered, Logged, count, kind_name, label, mapping, parsed_json
from tasks.extract.readers.recorded import recorded_settings
from tasks.extract.readers.spans import call_of
from tasks.extract.readers.stand_ins import has_mark, is_lost, lengths_only
from tasks.extract.readers.tools import with_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "mlflow."
_INPUTS: Final = "mlflow.spanInputs"
_TYPE: Final = "mlflow.spanType"
_USAGE: Final = "mlflow.chat.tokenUsage"
_MODELS: Final = frozenset({"CHAT_MODEL", "LLM"})
_ROLES: Final = {"human": "user", "ai": "assistant", "system": "system"}
_CONTENT: Final = frozenset({"messages", "prompt", "input", "contents"})
_OF_CLIENT: Final = frozenset({"extra_headers", "extra_query", "timeout"})
"""What a call tells its client and not the server."""


def recognises(found: Mapping[str, Any]) -> bool:
    """Tell a span of MLflow by its attributes."""
    return any(name.startswith(PREFIX) for name in found)


def read_span(record: Mapping[str, Any], given: Mapping[str, Any]) -> Logged | Filtered:
    """Make a span of a model a request, by its lengths where its inputs are not in the trace.

    Parameters
    ----------
    record, given
        The span, and its attributes.
    """
    found = {name: _plain(value) for name, value in given.items() if name.startswith((PREFIX, "invocation"))}
    kind = str(found.get(_TYPE))
    if kind not in _MODELS:
        return Filtered(f"span of type {kind_name(kind)}")
    usage = mapping(found.get(_USAGE))
    settings = {
        name: value
        for name, value in recorded_settings(mapping(found.get("invocation_params"))).items()
        if not name.startswith("_") and name not in (*_CONTENT, "model_name")
    }
    made = _formed(found, settings)
    model = label(found.get("mlflow.llm.model"))
    logged = call_of(
        record,
        endpoint="chat" if made is None else made.endpoint,
        model=model,
        output_tokens=count(usage.get("output_tokens")),
    )
    if made is None:
        logged.shape = lengths_only(usage.get("input_tokens"), f"{_USAGE}.input_tokens", _INPUTS)
        return logged
    body = with_tools(made.body, found)
    logged.body = body if body.get("model") or not model else {**body, "model": model}
    logged.rest = made.rest
    return logged


def _plain(value: object) -> object:
    """Return an attribute's value, which is JSON text; a text that is none stays as it is."""
    found = parsed_json(value) if isinstance(value, str) else value
    return value if found is None else found


def _formed(found: Mapping[str, Any], settings: dict[str, Any]) -> Formed | None:
    """Return the body of a span's call; None if the span does not hold its prompt."""
    given = found.get(_INPUTS)
    older = found.get("mlflow.chat.messages")
    if isinstance(given, dict) and _CONTENT & given.keys():
        lost = has_mark(given) or any(is_lost(given[name]) for name in _CONTENT & given.keys())
        body = {**settings, **_as_sent(given)}
        if isinstance(given.get("messages"), list):
            body["messages"] = [_message(message) for message in _one_list(given["messages"])]
        return None if lost else any_form.formed(body)
    messages = _one_list(given) if isinstance(given, list) else older
    if isinstance(messages, list) and messages and all(isinstance(item, dict) for item in messages):
        return None if is_lost(messages) else Formed({**settings, "messages": list(map(_message, messages))})
    if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], str):
        given = messages[0]
    if isinstance(given, str) and not is_lost(given):
        return Formed({**settings, "messages": [{"role": "user", "content": given}]})
    if is_lost(given):
        return None
    return Formed({**settings, "messages": given})


def _as_sent(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a client's call as the body that it sends: `extra_body` holds fields of it."""
    more = given.get("extra_body")
    if not isinstance(more, dict):
        more = {}
    left = _OF_CLIENT | {"extra_body"} if more else _OF_CLIENT
    return {name: value for name, value in given.items() if name not in left} | more


def _one_list(messages: list[Any]) -> list[Any]:
    """Take the one list out of a list of lists: LangChain's models answer several conversations at a time."""
    return messages[0] if len(messages) == 1 and isinstance(messages[0], list) else messages


def _message(message: object) -> object:
    """Give a message of LangChain the role of its type."""
    if not isinstance(message, dict) or "role" in message or "type" not in message:
        return message
    kind = message["type"]
    role = _ROLES.get(kind, kind) if isinstance(kind, str) else kind
    kept = {name: value for name, value in message.items() if name not in {"type", "example"}}
    return {**kept, "role": role}
