"""The prompt of an OpenAI body in one normal form, whatever form it was sent in.

A chat may end with a message that the answer is to go on with: `continue_final_message` of the body says so,
or `prefix` of the message itself. The normal form is the latter: `prefix` is true there, and false where an
assistant's message is last and a new turn is asked for all the same. Without either nobody knows what is
meant.

A message of text parts has them as one text. One with images keeps its parts, in their order, texts that
follow each other as one; of an image that is what `tasks.requests.images` says.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson

from tasks.base.errors import ErrorCode, RequestError, bounded
from tasks.base.identity import canonical_json
from tasks.requests.images import ImageReader
from tasks.requests.sampling import TURN_FIELDS
from tasks.requests.tool_messages import CALL_ID, CALLS, normal_calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
_PLAIN_ROLES: Final = ROLES - {"tool"}
CONTENT_TAG: Final = {name: name.encode() + b"\0" for name in ("messages_json", "prompt", "token_ids")}
"""What precedes a prompt in its digest."""
_WITHOUT_EFFECT: Final = frozenset(
    {"annotations", "cache_control", "citations", "id", "response_metadata", "usage_metadata"}
)
"""Fields of messages and parts that no prompt is made of, whatever their value: what is kept for later calls,
names of the message, sources and counts of a logged answer."""
_FLAGS: Final = frozenset({"example", "prefix"})
"""Fields of messages that ask for nothing when they are false."""
_INT32_MAX: Final = 2**31 - 1


def chat_content(body: Mapping[str, Any], images: ImageReader | None = None) -> dict[str, Any]:
    """Return `{"messages_json": ...}` of a chat body: canonical JSON, a message's content one text or parts.

    The last message has `prefix`, true or false, where the body says whether to go on with it. Images are
    read by `images`; None reads data URLs and keeps nothing.

    Raises
    ------
    RequestError
        Naming the message and its field.
    """
    messages = body.get("messages")
    if messages is None:
        raise RequestError(ErrorCode.MISSING_PARAMETER, "messages", "the body has no messages")
    if not isinstance(messages, list):
        raise RequestError(ErrorCode.INVALID_PARAMETER, "messages", "must be a list")
    if not messages:
        raise RequestError(ErrorCode.EMPTY_PROMPT, "messages", "the list of messages is empty")
    images = images or ImageReader()
    normal = [_message(message, f"messages[{index}]", images) for index, message in enumerate(messages)]
    _settle_turn(normal, body)
    try:
        # Texts, flags and calls of texts only, so these are the bytes of `canonical_json`.
        return {"messages_json": orjson.dumps(normal, option=orjson.OPT_SORT_KEYS).decode()}
    except TypeError:
        return {"messages_json": canonical_json(normal)}


def without_turn(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], bool | None]:
    """Return a chat in its normal form without `prefix`, and whether the answer goes on with its last one.

    That is None where nothing says so: then a new turn begins, unless the last message is the assistant's.
    """
    *before, last = messages
    rest = {name: value for name, value in last.items() if name != "prefix"}
    return [*map(dict, before), rest], last.get("prefix")


def _settle_turn(normal: list[dict[str, Any]], body: Mapping[str, Any]) -> None:
    """Leave `prefix` where it is known whether the answer goes on with the last message."""
    for index, message in enumerate(normal[:-1]):
        if message.pop("prefix", False):
            where = f"messages[{index}].prefix"
            raise RequestError(
                ErrorCode.INVALID_PARAMETER, where, "only the last message can be gone on with"
            )
    begins, goes_on = (body.get(name) for name in TURN_FIELDS)
    last, new_turn = normal[-1], begins is True or goes_on is False
    if last.get("prefix") and new_turn:
        where = f"messages[{len(normal) - 1}].prefix"
        raise RequestError(ErrorCode.INVALID_PARAMETER, where, "a new turn is asked for as well")
    if goes_on is True:
        last["prefix"] = True
    elif last["role"] != "assistant":
        if not last.get("prefix"):
            last.pop("prefix", None)
    elif new_turn:
        last["prefix"] = False


def _message(message: object, where: str, images: ImageReader) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise RequestError(ErrorCode.INVALID_PARAMETER, where, "must be an object")
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and isinstance(content, str) and isinstance(role, str) and role in _PLAIN_ROLES:
        return {"role": role, "content": content}
    calls = message.get(CALLS) if role == "assistant" else None
    own = {CALLS} if role == "assistant" else {CALL_ID} if role == "tool" else set()
    _check_fields(message, frozenset({"role", "content", "name", "prefix", *own}), where)
    if role == "function":
        _refuse_field(f"{where}.role")
    if not isinstance(role, str) or role not in ROLES:
        raise RequestError(ErrorCode.INVALID_PARAMETER, f"{where}.role", f"must be one of {sorted(ROLES)}")
    # An answer that is a call has no text at all.
    pictures = images if role == "user" else None
    text = None if calls and content in (None, []) else _text(content, f"{where}.content", pictures)
    normal: dict[str, Any] = {"role": role, "content": text}
    if calls not in (None, []):
        normal[CALLS] = normal_calls(calls, f"{where}.{CALLS}")
    if role == "tool" and message.get(CALL_ID) is not None:
        if not isinstance(message[CALL_ID], str):
            raise RequestError(ErrorCode.INVALID_PARAMETER, f"{where}.{CALL_ID}", "must be a string")
        normal[CALL_ID] = message[CALL_ID]
    name, prefix = message.get("name"), message.get("prefix")
    if name is not None:
        if not isinstance(name, str):
            raise RequestError(ErrorCode.INVALID_PARAMETER, f"{where}.name", "must be a string")
        normal["name"] = name
    if prefix is not None:
        if not isinstance(prefix, bool):
            raise RequestError(ErrorCode.INVALID_PARAMETER, f"{where}.prefix", "must be true or false")
        normal["prefix"] = prefix
    return normal


def _text(content: object, where: str, images: ImageReader | None) -> str | list[dict[str, Any]]:
    """Return a content as one text, or as parts if there are images among them; None takes no images."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(ErrorCode.INVALID_PARAMETER, where, "must be a string or a list of text parts")
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise RequestError(ErrorCode.INVALID_PARAMETER, place, "must be an object with a type")
        if part["type"] == "image_url" and images is not None:
            _check_fields(part, frozenset({"type", "image_url"}), place)
            parts.append(images.part(part, place))
            continue
        if part["type"] != "text":
            _refuse_field(f"{place}.type")
        _check_fields(part, frozenset({"type", "text"}), place)
        if not isinstance(part.get("text"), str):
            raise RequestError(ErrorCode.INVALID_PARAMETER, f"{place}.text", "must be a string")
        if parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += part["text"]
        else:
            parts.append({"type": "text", "text": part["text"]})
    if all(part["type"] == "text" for part in parts):
        return parts[0]["text"] if parts else ""
    return [part for part in parts if part.get("text") != ""]


def completion_content(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"prompt": text}` or `{"token_ids": ids}` of a completions body.

    Raises
    ------
    RequestError
        Naming `prompt`.
    """
    prompt = body.get("prompt")
    if prompt is None:
        raise RequestError(ErrorCode.MISSING_PARAMETER, "prompt", "the body has no prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise RequestError(
                ErrorCode.UNSUPPORTED_PARAMETER, "prompt", "several prompts in one request are not supported"
            )
        prompt = prompt[0]
    if prompt in ("", []):
        raise RequestError(ErrorCode.EMPTY_PROMPT, "prompt", "the prompt is empty")
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if not isinstance(prompt, list) or not all(_is_token(item) for item in prompt):
        raise RequestError(ErrorCode.INVALID_PARAMETER, "prompt", "must be a text or a list of token ids")
    return {"token_ids": prompt}


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= _INT32_MAX


def content_digest(content: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 that names a prompt, told apart by its kind.

    Raises
    ------
    ValueError
        For text that UTF-8 does not have (lone surrogates).
    """
    ((kind, value),) = content.items()
    data = value if isinstance(value, str) else canonical_json(value)
    return hashlib.sha256(CONTENT_TAG[kind] + data.encode()).digest()


def _check_fields(found: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Refuse the first field of a message or a part that asks for something."""
    for name in sorted(found.keys() - known - _WITHOUT_EFFECT):
        value = found[name]
        if not _asks_nothing(value) and not (name in _FLAGS and value is False):
            _refuse_field(f"{where}.{bounded(name, 64)}")


def _asks_nothing(value: object) -> bool:
    """Tell an unset field: logged answers come back as history with all their fields, mostly unset."""
    if isinstance(value, dict):
        return all(_asks_nothing(item) for item in value.values())
    return value in (None, "", [])


def _refuse_field(name: str) -> NoReturn:
    raise RequestError(
        ErrorCode.UNSUPPORTED_PARAMETER, name, "only texts, and images of users, are supported"
    )
