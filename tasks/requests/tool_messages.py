"""Messages around calls of tools: an assistant's calls, and what a tool gave back.

Their normal form is OpenAI's, a call's arguments the text that was sent; templates get them as an object.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tasks.base.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CALLS: Final = "tool_calls"
CALL_ID: Final = "tool_call_id"


def normal_calls(calls: object, where: str) -> list[dict[str, Any]]:
    """Return the calls of an assistant's message in their normal form.

    Parameters
    ----------
    calls
        `tool_calls` of a message.
    where
        Its place, for errors.

    Raises
    ------
    RequestError
        Naming the call and its field.
    """
    if not isinstance(calls, list):
        _invalid(where, "must be a list of calls")
    # Mistral's clients leave the type out.
    types = ("function", None)
    if not all(isinstance(call, dict) and call.get("type") in types for call in calls) or not all(
        isinstance(call.get("function"), dict) for call in calls
    ):
        message = "only calls of functions are supported, as a request to OpenAI has them"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, where, message)
    return [_call(call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call["function"]
    name = function.get("name")
    if not isinstance(name, str) or not name:
        _invalid(f"{where}.function.name", "must be a text, not empty")
    own = call.get("id")
    if own is not None and not isinstance(own, str):
        _invalid(f"{where}.id", "must be a text")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    named = {} if own is None else {"id": own}
    return {**named, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(given: object, where: str) -> str:
    if given in (None, ""):
        return "{}"
    text = json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if not isinstance(text, str) or not isinstance(found, dict):
        _invalid(where, "must be the JSON text of an object")
    return text


def for_template(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as chat templates take it: arguments as objects, keys in OpenAI's order."""
    calls = message.get(CALLS)
    if not calls:
        return dict(message)
    made = [
        {
            **({"id": call["id"]} if "id" in call else {}),
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.loads(call["function"]["arguments"]),
            },
        }
        for call in calls
    ]
    return {**message, CALLS: made}


def text_of(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """Return the text of a message's content, of parts those that are texts; '' where there is none."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part["type"] == "text")


def texts_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all texts of messages: contents, names and arguments of calls."""
    texts = [text_of(message["content"]) for message in messages if message["content"] is not None]
    calls = [call["function"] for message in messages for call in message.get(CALLS) or ()]
    return [*texts, *(call[key] for call in calls for key in ("name", "arguments"))]


def _invalid(field: str, message: str) -> NoReturn:
    raise RequestError(ErrorCode.INVALID_PARAMETER, field, message)
