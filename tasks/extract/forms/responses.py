"""Bodies of OpenAI's `/v1/responses`: `{model, input, instructions, max_output_tokens, ...}`.

`input` is a text or a list of messages; items of other types (calls of tools and what they gave, reasoning,
references) are refused by their type, and so is what the service keeps for the caller
(`previous_response_id`, `conversation`, `prompt`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms.contract import Formed, only_nothing, renamed, set_aside, with_system

if TYPE_CHECKING:
    from collections.abc import Mapping

_RENAMED: Final = {"max_output_tokens": "max_tokens"}
_LOGPROBS: Final = "message.output_text.logprobs"
_WITHOUT_EFFECT: Final = ("background", "include", "max_tool_calls", "truncation")
"""How the answer is fetched, what else comes back, a limit of tools (which are refused), and whether a prompt
that is too long is cut (it is an error here)."""
_TEXTS: Final = frozenset({"input_text", "output_text", "text"})
_ITEM: Final = frozenset({"type", "id", "status", "phase"})
"""Fields of a message that tell where it was kept."""


def formed(body: Mapping[str, Any]) -> Formed:
    """Return the chat that a body asks for."""
    found = dict(body)
    messages = _messages(found.pop("input", None))
    instructions = found.pop("instructions", None)
    if isinstance(messages, list):
        found["messages"] = with_system(_content(instructions), messages) if messages else []
    elif messages is not None or instructions is not None:
        found["messages"] = messages
    include = found.get("include")
    top = found.pop("top_logprobs", None)
    if isinstance(include, list) and _LOGPROBS in include:
        found |= {"logprobs": True, "top_logprobs": top}
    elif top:
        found["top_logprobs"] = top
    rest = set_aside(found, _WITHOUT_EFFECT)
    for name in ("reasoning", "text"):
        if name in found and only_nothing(_without_plain_format(found[name])):
            del found[name]
    return Formed(renamed(found, _RENAMED), "chat", rest)


def _without_plain_format(value: object) -> object:
    """Leave out of `text` that it is to be plain text."""
    if isinstance(value, dict) and value.get("format") == {"type": "text"}:
        return {name: item for name, item in value.items() if name != "format"}
    return value


def _messages(given: object) -> object:
    if isinstance(given, str):
        return [{"role": "user", "content": given}] if given else []
    return [_message(item) for item in given] if isinstance(given, list) else given


def _message(item: object) -> object:
    if not isinstance(item, dict):
        return item
    if item.get("type") not in (None, "message") or "role" not in item:
        # Refused by its type.
        return {"type": item.get("type") or "item"}
    kept = {name: value for name, value in item.items() if name not in _ITEM}
    return {**kept, "content": _content(item.get("content"))}


def _content(content: object) -> object:
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and str(part.get("type")) in _TEXTS
        else part
        for part in content
    ]
