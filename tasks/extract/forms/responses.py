"""Bodies of OpenAI's `/v1/responses`: `{model, input, instructions, max_output_tokens, ...}`.

`input` is a text or a list of messages (texts and images), calls of functions and what these gave; items of
other types (reasoning, references, calls of the service's own tools) are refused by their type, and so is
what the service keeps for the caller (`previous_response_id`, `conversation`, `prompt`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms.contract import Formed, image_part, only_nothing, renamed, set_aside, with_system

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
_FUNCTION: Final = ("name", "description", "parameters", "strict")
_TOLD: Final = (
    *("instructions", "max_output_tokens", "parallel_tool_calls", "reasoning", "temperature", "text"),
    *("tool_choice", "tools", "top_logprobs", "top_p", "truncation"),
)
"""Fields of a call that its answer tells again."""


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
    found |= _tools(found)
    _settle_text(found)
    _settle_reasoning(found)
    return Formed(renamed(found, _RENAMED), "chat", rest)


def told_again(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a call that its answer tells again, functions in this API's own form."""
    found = {name: body[name] for name in _TOLD if body.get(name) is not None}
    if isinstance(found.get("tools"), list):
        found["tools"] = [_told_function(tool) for tool in found["tools"]]
    choice = found.get("tool_choice")
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        found["tool_choice"] = {"type": "function", "name": choice["function"].get("name")}
    return found


def _told_function(tool: object) -> object:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    function = tool["function"] if isinstance(tool.get("function"), dict) else tool
    return {"parameters": None, "strict": None, **function, "type": "function"}


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return functions, and which of them is to be called, as a chat has them; others stay as they are."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    found: dict[str, Any] = {}
    if isinstance(tools, list):
        found["tools"] = [_function(tool) for tool in tools]
    if isinstance(choice, dict) and choice.keys() == {"type", "name"} and choice["type"] == "function":
        found["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    return found


def _function(tool: object) -> object:
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    others = {name: value for name, value in tool.items() if name not in _FUNCTION}
    return {**others, "function": {name: tool[name] for name in _FUNCTION if tool.get(name) is not None}}


def _settle_text(found: dict[str, Any]) -> None:
    """Make `text.format` the `response_format` of a chat; what else `text` asks for stays."""
    text = found.get("text")
    if not isinstance(text, dict):
        if text is None:
            found.pop("text", None)
        return
    form = text.get("format")
    rest = {name: value for name, value in text.items() if name != "format"}
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form == {"type": "json_object"}:
        found["response_format"] = form
    elif form not in (None, {"type": "text"}):
        return
    found["text"] = rest
    if only_nothing(rest):
        del found["text"]


def _settle_reasoning(found: dict[str, Any]) -> None:
    """Make `reasoning.effort` the `reasoning_effort` of a chat; what else it asks for stays."""
    reasoning = found.get("reasoning")
    if only_nothing(reasoning):
        found.pop("reasoning", None)
    elif isinstance(reasoning, dict) and only_nothing({**reasoning, "effort": None}):
        found["reasoning_effort"] = found.pop("reasoning")["effort"]


def _messages(given: object) -> object:
    if isinstance(given, str):
        return [{"role": "user", "content": given}] if given else []
    if not isinstance(given, list):
        return given
    made: list[Any] = []
    for item in given:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "function_call":
            _add_call(made, item)
        elif kind == "function_call_output":
            output = _content(item.get("output"))
            made.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        else:
            made.append(_message(item))
    return made


def _add_call(made: list[Any], item: Mapping[str, Any]) -> None:
    """Add a call to the turn of the assistant that it belongs to: all of one turn is one message."""
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    if not made or not isinstance(made[-1], dict) or made[-1].get("role") != "assistant":
        made.append({"role": "assistant", "content": None})
    made[-1] = {**made[-1], "tool_calls": [*made[-1].get("tool_calls", []), call]}


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
    return [_part(part) for part in content]


def _part(part: object) -> object:
    if not isinstance(part, dict):
        return part
    if str(part.get("type")) in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "input_image" and part.get("file_id") is None:
        detail = {"detail": part["detail"]} if part.get("detail") is not None else {}
        return image_part(part.get("image_url"), **detail)
    return part
