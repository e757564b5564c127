"""What tools write where a prompt was: no text to answer, though it looks like one.

A log that is cut, masked or kept without content holds marks instead of prompts. A request whose prompt is
lost in any part has lengths only; where the log does not tell them, its record goes to quarantine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.readers.contract import Shape, count, invalid, parsed_json

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKS: Final = frozenset(
    {
        "redacted-by-litellm",
        "default-message-value",
        "<truncated due to size exceeding limit>",
        "[<truncated due to size exceeding limit>]",
        "<fully masked due to failed mask function>",
        "__REDACTED__",
        "[REDACTED]",
    }
)
"""Texts that stand for a whole prompt, message or part: of LiteLLM (masked; a call that has no messages), of
Langfuse (cut; masking failed), of OpenInference (hidden), and of masks in general."""
_CUT: Final = re.compile(r"\(litellm_truncated (?:skipped )?\d+ chars[.)]")
"""What LiteLLM's spend logs put for the middle of a long text."""
_BEGUN: Final = re.compile(
    r'\s*(?:\{\s*"(?:messages|model|prompt|input|contents|role|system)"|\[\s*\{\s*"(?:role|content|type|parts)")\s*:'
)
"""How the JSON of a body, of messages or of parts begins."""
_EMPTY: Final[tuple[object, ...]] = (None, "", [], {})
_EMPTY_TEXTS: Final = frozenset({"{}", "[]", "null", '""'})
_NO_CONTENT: Final[tuple[object, ...]] = (None, [], {})
_WITHIN: Final = (
    "content",
    "contents",
    "input",
    "instructions",
    "messages",
    "parts",
    "prompt",
    "system",
    "systemInstruction",
    "system_instruction",
    "text",
)


def is_lost(content: object) -> bool:
    """Tell whether what a log has for a prompt is none.

    It is none if it is empty, if there is a mark in any of its messages, if any message but an answer has no
    content at all, or if every message is empty.
    """
    if content in _EMPTY or (isinstance(content, str) and content.strip() in _EMPTY_TEXTS):
        return True
    messages = content.get("messages", content) if isinstance(content, dict) else content
    return has_mark(content) or _without_content(messages)


def has_mark(content: object) -> bool:
    """Tell whether a text, or one anywhere in messages, parts or a body, is a mark or was cut."""
    if isinstance(content, str):
        if content.strip() in MARKS or ("litellm_truncated" in content and bool(_CUT.search(content))):
            return True
        # An exporter's limit has cut it.
        return _BEGUN.match(content) is not None and parsed_json(content) is None
    if isinstance(content, list):
        return any(has_mark(item) for item in content)
    if isinstance(content, dict):
        if content.get("litellm_truncated") is True:
            return True
        return any(has_mark(content[name]) for name in _WITHIN if name in content)
    return False


def lengths_only(tokens: object, name: str, prompt: str) -> Shape:
    """Return the shape of a request whose prompt is lost.

    Parameters
    ----------
    tokens
        What the log says about the number of prompt tokens.
    name
        The field it was read from.
    prompt
        The field where the prompt should be.

    Raises
    ------
    QuarantineError
        Naming `name` if it holds no count, `prompt` if the log does not tell the length.
    """
    if tokens in (None, "", 0, "0"):
        raise QuarantineError(
            QuarantineCode.MISSING_FIELD,
            prompt,
            f"the log does not hold the prompt (it was left out, cut or masked), nor its length in {name}",
        )
    found = count(tokens)
    if not found:
        raise invalid(name, "must be a whole number of at least 1")
    return Shape(found)


def _without_content(messages: object) -> bool:
    """Tell messages of which the roles were kept and the content, of one or of all, was not."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return False
    asked = [message for message in messages if "role" in message and not _calls_tools(message)]
    gone = [
        message.get("content") in _NO_CONTENT and message.get("parts") in _NO_CONTENT
        for message in asked
        if message["role"] != "assistant" or "parts" in message
    ]
    empty = [message.get("content") in _EMPTY and message.get("parts") in _EMPTY for message in asked]
    return any(gone) or (bool(empty) and len(asked) == len(messages) and all(empty))


def _calls_tools(message: Mapping[str, Any]) -> bool:
    return any(message.get(name) not in _EMPTY for name in ("tool_calls", "function_call"))


def parsed_text(content: object) -> object:
    """Return what a JSON text of an object or a list holds; anything else as it is."""
    if isinstance(content, str) and content.lstrip()[:1] in ("{", "["):
        found = parsed_json(content)
        return content if found is None else found
    return content
