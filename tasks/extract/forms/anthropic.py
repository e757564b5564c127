"""Bodies of Anthropic's `/v1/messages`: `{model, max_tokens, system, messages, stop_sequences, ...}`.

Content blocks of other types than text and image are refused by their type. A switched-off `thinking` asks
for nothing. A last message of the assistant is the beginning of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms.contract import (
    Formed,
    image_in_base64,
    image_part,
    renamed,
    set_aside,
    with_system,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_RENAMED: Final = {"stop_sequences": "stop", "max_tokens_to_sample": "max_tokens"}
_WITHOUT_EFFECT: Final = ("anthropic_beta", "anthropic_version", "cache_control", "inference_geo")
"""Which version of the API was meant, what is kept for later calls, and where it is computed."""
_CHOICES: Final = ("auto", "none")


def formed(body: Mapping[str, Any]) -> Formed:
    """Return the chat that a body asks for."""
    found = dict(body)
    system = found.pop("system", None)
    messages = found.get("messages")
    if isinstance(messages, list):
        turns = [_message(message) for message in messages]
        found["messages"] = with_system(system, turns) if turns else []
        if messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
            found["continue_final_message"] = True
    elif system is not None:
        found["system"] = system
    if isinstance(found.get("thinking"), dict) and found["thinking"].get("type") == "disabled":
        del found["thinking"]
    choice = found.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") in _CHOICES:
        found["tool_choice"] = choice["type"]
    rest = set_aside(found, _WITHOUT_EFFECT)
    return Formed(renamed(found, _RENAMED), "chat", rest)


def _message(message: object) -> object:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(content, list):
        return message
    return {**message, "content": [_part(part) for part in content]}


def _part(part: object) -> object:
    """Return an image as OpenAI has it; its address or bytes are in its `source`."""
    source = part.get("source") if isinstance(part, dict) and part.get("type") == "image" else None
    if not isinstance(source, dict):
        return part
    if source.get("type") == "base64":
        return image_in_base64(source.get("media_type"), source.get("data"))
    return image_part(source["url"]) if source.get("type") == "url" and "url" in source else part
