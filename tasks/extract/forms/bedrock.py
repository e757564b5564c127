"""Bodies of Bedrock: Converse, and what InvokeModel takes for the families of models.

Read are the forms of Anthropic messages, Converse and Nova (`inferenceConfig`), Titan (`inputText`), and
Llama or Mistral (`prompt`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import anthropic
from tasks.extract.forms.contract import (
    NOTHING,
    Formed,
    image_in_base64,
    image_part,
    only_nothing,
    renamed,
    set_aside,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_RENAMED: Final = {
    "max_gen_len": "max_tokens",
    "max_new_tokens": "max_tokens",
    "maxTokenCount": "max_tokens",
    "maxTokens": "max_tokens",
    "stopSequences": "stop",
    "topK": "top_k",
    "topP": "top_p",
}
_WITHOUT_EFFECT: Final = (
    "additionalModelResponseFieldPaths",
    "performanceConfig",
    "requestMetadata",
    "schemaVersion",
    "serviceTier",
)
"""What else comes back, how fast, what for, and fields that name the form."""
_NESTED: Final = ("textGenerationConfig", "inferenceConfig")
_EMPTY: Final = ("additionalModelRequestFields", "promptVariables", "guardrailConfig", "toolConfig")
"""Fields that ask for something unless they are empty, each kept by its name then."""


def formed(body: Mapping[str, Any]) -> Formed:
    """Return the chat or completion that a body asks for."""
    found = dict(body)
    for name in _NESTED:
        if isinstance(found.get(name), dict):
            found |= found.pop(name)
    for name in _EMPTY:
        if only_nothing(found.get(name)):
            found.pop(name, None)
    rest = set_aside(found, _WITHOUT_EFFECT)
    found = renamed(found, _RENAMED)
    if "inputText" in found:
        found = renamed(found, {"inputText": "prompt"})
    if "modelId" in found:
        found = renamed(found, {"modelId": "model"})
    if "messages" not in found:
        plain = anthropic.formed(found)
        endpoint = plain.endpoint if "prompt" not in plain.body else "completions"
        return Formed(plain.body, endpoint, {**plain.rest, **rest})
    if isinstance(found["messages"], list):
        found["messages"] = [_message(message) for message in found["messages"]]
    found["system"] = _parts(found.get("system"))
    chat = anthropic.formed({name: value for name, value in found.items() if value not in NOTHING[:1]})
    return Formed(chat.body, "chat", {**chat.rest, **rest})


def _message(message: object) -> object:
    return {**message, "content": _parts(message.get("content"))} if isinstance(message, dict) else message


def _parts(content: object) -> object:
    """Give the parts of Converse, which have no type, the type that their one field is."""
    if not isinstance(content, list):
        return content
    return [
        _image(part) or {"type": next(iter(part)), **part}
        if isinstance(part, dict) and len(part) == 1
        else part
        for part in content
        if not (isinstance(part, dict) and part.keys() == {"cachePoint"})
    ]


def _image(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an image as OpenAI has it: its source holds the bytes, or where in S3 they are."""
    image = part.get("image")
    source = image.get("source") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(source, dict):
        return None
    if "bytes" in source:
        return image_in_base64(f"image/{image.get('format')}", source["bytes"])
    place = source.get("s3Location")
    return image_part(place["uri"]) if isinstance(place, dict) and "uri" in place else None
