"""Bodies of Gemini's `generateContent`: `{contents, systemInstruction, generationConfig, ...}`.

Field names come in camel case (the API, batch files) and in snake case (the Python client). Parts that are
neither text nor image are refused by their kind; thoughts of earlier turns and their signatures mean nothing
to another model and are left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms.contract import (
    NOTHING,
    Formed,
    image_in_base64,
    image_part,
    set_aside,
    with_system,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTINGS: Final = {
    "candidate_count": "n",
    "frequency_penalty": "frequency_penalty",
    "logprobs": "top_logprobs",
    "max_output_tokens": "max_tokens",
    "presence_penalty": "presence_penalty",
    "response_logprobs": "logprobs",
    "seed": "seed",
    "stop_sequences": "stop",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "audio_timestamp": (False,),
    "response_mime_type": ("text/plain",),
    "response_modalities": (["TEXT"], ["text"]),
}
_WITHOUT_EFFECT: Final = ("labels", "safetySettings", "safety_settings")
"""Names for the bill, and what the service's own filter lets through."""
_CONFIG: Final = ("generationConfig", "generation_config", "config")
_ROLES: Final = {"model": "assistant", None: "user", "": "user"}
_CAMEL: Final = re.compile(r"(?<=[a-z])([A-Z])")


def formed(body: Mapping[str, Any]) -> Formed:
    """Return the chat that a body asks for."""
    found = dict(body)
    settings: dict[str, Any] = {}
    for name in _CONFIG:
        if isinstance(found.get(name), dict):
            settings |= found.pop(name)
    # The Python client has these in its configuration.
    found |= {name: value for name, value in settings.items() if _is_outer(name)}
    settings = {name: value for name, value in settings.items() if not _is_outer(name)}
    rest = set_aside(found, _WITHOUT_EFFECT)
    systems = [found.pop(name) for name in ("systemInstruction", "system_instruction") if name in found]
    contents = found.pop("contents", None)
    messages = [contents] if isinstance(contents, str | dict) else contents
    if isinstance(messages, list):
        turns = [_message(item) for item in messages]
        system = _system(next((item for item in systems if item not in NOTHING), None))
        found["messages"] = with_system(system, turns) if turns else []
    else:
        found["messages"] = messages
    return Formed({**found, **_settings(settings)}, "chat", rest)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        snake = _snake(name)
        if snake in _SETTINGS:
            found[_SETTINGS[snake]] = value
        elif value not in (*NOTHING, *_NEUTRAL.get(snake, ())):
            found[name] = value
    # Gemini asks for all alternatives or for none; the number is of further ones.
    if not found.get("logprobs"):
        found.pop("logprobs", None)
        if found.get("top_logprobs") in (None, 0):
            found.pop("top_logprobs", None)
    return found


def _is_outer(name: str) -> bool:
    return _snake(name) in {
        "system_instruction", "safety_settings", "labels", "tools", "tool_config", "cached_content"
    }  # fmt: skip


def _snake(name: str) -> str:
    return _CAMEL.sub(lambda found: "_" + found[1].lower(), name)


def _system(given: object) -> object:
    if isinstance(given, dict):
        return _parts(given.get("parts", [given]))
    return [_part(part) for part in given] if isinstance(given, list) else given


def _message(item: object) -> object:
    if isinstance(item, str):
        return {"role": "user", "content": item}
    if not isinstance(item, dict):
        return item
    role = item.get("role")
    kept = {name: value for name, value in item.items() if name not in {"role", "parts"}}
    named = _ROLES.get(role, role) if role is None or isinstance(role, str) else role
    return {**kept, "role": named, "content": _parts(item.get("parts"))}


def _parts(parts: object) -> object:
    if isinstance(parts, dict | str):
        parts = [parts]
    if not isinstance(parts, list):
        return parts
    return [_part(part) for part in parts if not (isinstance(part, dict) and part.get("thought") is True)]


def _part(part: object) -> object:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    kept = {
        name: value
        for name, value in part.items()
        if name not in {"thought", "thoughtSignature", "thought_signature"} and value is not None
    }
    if "text" in kept:
        return {"type": "text", **kept}
    # What is no image is refused by its kind.
    return _image(kept) or {"type": next(iter(kept), "part")}


def _image(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a part of bytes or of a file as OpenAI has it, if it is an image."""
    name, given = next(iter(part.items()), ("", None))
    fields = {_snake(key): value for key, value in given.items()} if isinstance(given, dict) else {}
    media_type = fields.get("mime_type")
    if len(part) != 1 or not str(media_type).startswith("image/"):
        return None
    if _snake(name) == "inline_data":
        return image_in_base64(media_type, fields.get("data"))
    return image_part(fields.get("file_uri")) if _snake(name) == "file_data" else None
