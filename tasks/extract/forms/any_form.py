"""A body of an API that is not named -> the form it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.extract.forms import anthropic, bedrock, gemini, responses
from tasks.extract.forms.contract import Formed

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANTHROPIC: Final = frozenset({"system", "stop_sequences", "anthropic_version", "thinking"})
_CONVERSE: Final = frozenset({"inferenceConfig", "toolConfig", "additionalModelRequestFields"})
_EMBEDDING: Final = frozenset({"dimensions", "encoding_format", "input_type"})
"""Fields of calls for embeddings, which have an `input` as well."""


def formed(body: Mapping[str, Any]) -> Formed | None:
    """Return what a body asks a text model for; None if it is of no known form, such as that of embeddings.

    Told by its own fields: `contents` is Gemini's, `messages` with fields of Anthropic's or Converse's are
    theirs, `input` is of `/v1/responses` unless fields of embeddings are beside it.
    """
    if "contents" in body:
        return gemini.formed(body)
    messages = body.get("messages")
    if messages is not None:
        if _CONVERSE & body.keys() or _untyped(messages):
            return bedrock.formed(body)
        return anthropic.formed(body) if _ANTHROPIC & body.keys() else Formed(dict(body))
    if "prompt" in body and "input" not in body:
        return Formed(dict(body), "completions")
    return responses.formed(body) if "input" in body and not is_embedding(body) else None


def is_embedding(body: Mapping[str, Any]) -> bool:
    """Tell a call for embeddings, which has an `input` as a call of `/v1/responses` has."""
    return bool(_EMBEDDING & body.keys()) or "embed" in str(body.get("model", "")).lower()


def _untyped(messages: object) -> bool:
    """Tell Converse by its parts, which are objects of one field without a type."""
    if not isinstance(messages, list):
        return False
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return bool(parts) and all(isinstance(part, dict) and "type" not in part for part in parts)
