"""Errors as types, and the one list of codes that results carry.

Three kinds of trouble are kept apart:

- *Configuration*: a setting is wrong. Raised before any work, as one line that names the field and the
  remedy (`ConfigurationError`).
- *A line that is no request*: it cannot be understood, or it cannot be told apart from another request. With
  a `custom_id` it is an error row under that name all the same, with the reason's code as its `ErrorCode`, so
  every `custom_id` comes back. Without one it cannot be named in a result file; it is kept in quarantine with
  its position, a `QuarantineCode` and a bounded piece of its text. So is a second body under one `custom_id`:
  the first one's answer or error is what comes back.
- *A request that cannot be answered*: it was understood and has an identity (a `request_id`), but asks for
  something unsupported, out of range, too long or malformed inside its body. It gets one error row with an
  `ErrorCode` and one line in `errors.jsonl`, so whoever sent it finds each of its requests in the results.

The border is therefore the envelope of a line: its `custom_id`, `method`, `url` and the presence of a `body`
decide whether there is a request; what is inside `body` decides only whether that request can be answered.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OF_ENGINE: Final = "the engine that answers"
"""How the message of an error begins that another engine would not make."""


class ErrorCode(StrEnum):
    """Why a request got an error row instead of an answer."""

    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    """The body holds a field that would change the answer and is not supported; `field` names it."""
    INVALID_PARAMETER = "invalid_parameter"
    """A supported field has the wrong type or is out of range; `field` names it."""
    MISSING_PARAMETER = "missing_parameter"
    """The body lacks what the endpoint requires (`messages`, `prompt`, `input`); `field` names it."""
    EMPTY_PROMPT = "empty_prompt"
    """The prompt is empty, or has no tokens after tokenisation."""
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    """Prompt tokens + 1 do not fit the model's context length."""
    TEMPLATE_ERROR = "template_error"
    """The tokenizer has no chat template, or its template refuses these messages."""
    INVALID_TOKEN = "invalid_token"  # noqa: S105 - a code, no password
    """The prompt, given as token ids or as text, has a token that the model has no embedding for."""
    INVALID_IMAGE = "invalid_image"
    """An image part holds no image, or one of more bytes or pixels than are taken; `field` names it."""
    IMAGE_UNAVAILABLE = "image_unavailable"
    """An image could not be read where its part says it is; trying again may help. `field` names the part."""
    KV_BUDGET_EXCEEDED = "kv_budget_exceeded"
    """The request alone needs more KV memory than the engine was given."""
    NOT_REPLAYABLE = "not_replayable"
    """Only lengths or block hashes are known: there is no text to answer outside of benchmark replays."""
    ENGINE_ERROR = "engine_error"
    """The engine failed on this request; trying again may help."""
    FAILED_BEFORE = "failed_before"
    """By the log the request failed where it was sent; the message has the server's status and reason."""
    LINE_TOO_LONG = "line_too_long"
    """The line of this `custom_id` is longer than the limit."""
    INVALID_JSON = "invalid_json"
    """The line of this `custom_id` is JSON beyond what is read: its numbers, texts or nesting."""
    MISSING_FIELD = "missing_field"
    """The record lacks a field beside its `custom_id` that it must have (`url`, `body`); `field` names it."""
    INVALID_FIELD = "invalid_field"
    """A field of the record cannot be used (`custom_id` is no text, `body` no object); `field` names it."""
    UNSUPPORTED_URL = "unsupported_url"
    """`url` names an endpoint that is not answered."""
    UNSUPPORTED_METHOD = "unsupported_method"
    """`method` is something other than POST."""
    UNSUPPORTED_BY_MODEL = "unsupported_by_model"
    """The run's model does not answer this endpoint: it gives no embeddings, or nothing else."""


class QuarantineCode(StrEnum):
    """Why a line was set aside as no request."""

    INVALID_UTF8 = "invalid_utf8"
    """The bytes of the line are not UTF-8."""
    LINE_TOO_LONG = "line_too_long"
    """The line is longer than the limit; it was skipped without being held in memory."""
    INVALID_JSON = "invalid_json"
    """The line is not JSON; NaN, infinite numbers, lone surrogates and nesting over 100 levels count."""
    NOT_AN_OBJECT = "not_an_object"
    """The line is JSON but not an object."""
    INVALID_ROW = "invalid_row"
    """A row of a CSV table has other fields than its header, or quotes in wrong places."""
    MISSING_FIELD = "missing_field"
    """The record lacks a field it must have (`url`, `body`, a length of a trace); `field` names it."""
    INVALID_FIELD = "invalid_field"
    """A field of the record cannot be used (`custom_id`, `url`, a time, a length); `field` names it."""
    UNSUPPORTED_URL = "unsupported_url"
    """`url` names an endpoint that is not answered."""
    UNSUPPORTED_METHOD = "unsupported_method"
    """`method` is something other than POST."""
    DUPLICATE_CUSTOM_ID_CONFLICT = "duplicate_custom_id_conflict"
    """An earlier line of the object has the same `custom_id` and another body; the first line wins."""


class ConfigurationError(Exception):
    """A setting is wrong: raised before any work, shown to a person as one line.

    Parameters
    ----------
    field : str
        The option or setting to change, as the person typed it (`--store`).
    message : str
        What is wrong with it.
    remedy : str
        What to do about it.
    """

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(field, message, remedy)
        self.field = field
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return " ".join(f"{self.field}: {_sentence(self.message)} {_sentence(self.remedy)}".split())


class RequestError(Exception):
    """A request that cannot be answered: recorded as an error row and skipped, never fatal.

    Parameters
    ----------
    code : ErrorCode
        The reason, one of the documented codes.
    field : str or None
        The field of the request's body that is to blame, if one is (`messages[2].content`).
    message : str
        One sentence for whoever sent the request. It does not repeat prompt text.
    retryable : bool
        Whether the same request may succeed when sent again unchanged.
    """

    def __init__(self, code: ErrorCode, field: str | None, message: str, retryable: bool = False) -> None:
        super().__init__(code, field, message, retryable)
        self.code = code
        self.field = field
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.field + ': ' if self.field else ''}{self.message}"


class QuarantineError(Exception):
    """A line that is no request: recorded in quarantine and skipped, never fatal.

    Parameters
    ----------
    code : QuarantineCode
        The reason, one of the documented codes.
    field : str or None
        The field of the envelope that is to blame, if one is.
    message : str
        One sentence about it. It does not repeat the line's text.
    """

    def __init__(self, code: QuarantineCode, field: str | None, message: str) -> None:
        super().__init__(code, field, message)
        self.code = code
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.field + ': ' if self.field else ''}{self.message}"


def bounded(text: str, limit: int = 200) -> str:
    """Shorten `text` to at most `limit` characters, marking the cut, so that records stay small."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else text + "."
