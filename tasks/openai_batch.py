"""One line of an OpenAI Batch input file -> a canonical row, an error row, or a reason to set it aside.

Choices a sender may notice:

- `custom_id` may be absent; the request is then known by its content. `method` may be absent, else POST.
- `body.metadata.workload` and `body.metadata.tenant` (strings) fill the columns of that name. The default
  workload is `default`, not the file's name: nightly exports are cut into parts whose names say nothing.
- A message's content given as text parts is joined without a separator, as chat templates do.
- `prompt` may be a text, a list of token ids, or a list with one such prompt. Several prompts in one request
  would need several answers and are refused.
- `model` is kept as `requested_model`; the run's model answers.
- If a JSON object repeats a name, the last one counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tasks.errors import ErrorCode, QuarantineCode, QuarantineError, RequestError, bounded
from tasks.identity import answer_key, canonical_json, digest, request_id, text_digest
from tasks.prompts import chat_content, completion_content, content_text
from tasks.sampling import (
    CONTENT_FIELD,
    WITHOUT_EFFECT,
    Endpoint,
    SamplingDefaults,
    check_supported,
    effective_sampling,
    explicit_sampling,
)
from tasks.schema import error_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from tasks.lines import RawLine

PARSER_VERSION: Final = 2
"""Raise it when the same line would give another row: parsed rows of earlier nights are then not reused."""

ENDPOINTS: Final[dict[str, Endpoint]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
}
DEFAULT_WORKLOAD: Final = "default"
RAW_TEXT_CHARACTERS: Final = 2000
MAX_DEPTH: Final = 100
_ENVELOPE: Final = frozenset({"custom_id", "method", "url", "body"})
_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_BOM: Final = b"\xef\xbb\xbf"


class Outcome(StrEnum):
    """Where a line went."""

    BLANK = "blank"
    FILTERED = "filtered"
    QUARANTINED = "quarantined"
    REQUEST = "request"
    ERROR = "error"


@dataclass(slots=True)
class ParsedLine:
    """What one line asks for, before it has a place among its neighbours.

    Attributes
    ----------
    content
        At most one of `messages_json`, `prompt`, `token_ids`.
    max_tokens, sampling
        The settings the request gave itself; None if unset.
    answer_key
        Of a request that cannot be answered: the digest of its body as it came.
    body_digest
        Equal for two lines that are the same request in all fields of the body.
    error
        Why it cannot be answered, if so.
    """

    endpoint: Endpoint
    custom_id: str | None
    requested_model: str | None = None
    workload: str = DEFAULT_WORKLOAD
    tenant: str | None = None
    content: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    sampling: dict[str, Any] | None = None
    answer_key: str = ""
    body_digest: str = ""
    passthrough_json: str | None = None
    error: RequestError | None = None


class ObjectParser:
    """Parse the lines of one object in order, giving them their identity within it.

    Parameters
    ----------
    job, run_date, source_uri
        Where the rows belong and come from.
    defaults : SamplingDefaults
        The run's defaults; they are part of every answer key.
    model_filter : sequence of str
        Patterns (`*`, `?`) of requested models; requests that match none are filtered. Empty: all pass.

    Notes
    -----
    Memory grows by two short digests for each request of the object, not by its text.
    """

    def __init__(
        self,
        job: str,
        run_date: date,
        source_uri: str,
        defaults: SamplingDefaults,
        model_filter: Sequence[str] = (),
    ) -> None:
        self._place = {"job": job, "run_date": run_date, "source_uri": source_uri}
        self._job, self._run_date, self._source_uri = job, run_date, source_uri
        self._defaults = defaults
        self._model_filter = tuple(model_filter)
        # custom_id -> (body digest, request_id of the first line, repeats so far)
        self._named: dict[bytes, tuple[bytes, str, int]] = {}
        # answer key -> lines without custom_id so far
        self._unnamed: dict[bytes, int] = {}

    def parse(self, line: RawLine) -> tuple[Outcome, dict[str, Any] | None]:
        """Parse the next line.

        Returns
        -------
        (Outcome, row)
            The row is one of the tables requests, errors or quarantine; None for a blank or filtered line.
        """
        try:
            record = decode_line(line)
            if record is None:
                return Outcome.BLANK, None
            endpoint, custom_id, body = read_envelope(record)
            if self._model_filter and not self._wanted(body.get("model")):
                return Outcome.FILTERED, None
            parsed = parse_body(record, endpoint, custom_id, body, self._defaults)
            own, first = self._identify(parsed)
        except QuarantineError as reason:
            return Outcome.QUARANTINED, self._quarantine_row(line, reason)
        row = self._place | {
            "request_id": own,
            "workload": parsed.workload,
            "tenant": parsed.tenant,
            "custom_id": parsed.custom_id,
            "source_line": line.number,
            "endpoint": parsed.endpoint,
            "requested_model": parsed.requested_model,
            "answer_key": parsed.answer_key,
            "duplicate_of": first,
            "passthrough_json": parsed.passthrough_json,
            "max_tokens": parsed.max_tokens,
            "sampling": parsed.sampling,
            **parsed.content,
        }
        if parsed.error is None:
            return Outcome.REQUEST, row
        return Outcome.ERROR, error_row(row, parsed.error)

    def _wanted(self, model: object) -> bool:
        return isinstance(model, str) and any(fnmatchcase(model, pattern) for pattern in self._model_filter)

    def _identify(self, parsed: ParsedLine) -> tuple[str, str | None]:
        """Return the request's id, and the id of the first line it repeats, if it does."""
        place = (self._job, self._run_date, self._source_uri)
        if parsed.custom_id is None:
            key = bytes.fromhex(parsed.answer_key)
            ordinal = self._unnamed.get(key, 0)
            self._unnamed[key] = ordinal + 1
            return request_id(*place, None, parsed.answer_key, ordinal), None
        name = bytes.fromhex(text_digest(parsed.custom_id))
        body = bytes.fromhex(parsed.body_digest)
        earlier = self._named.get(name)
        if earlier is None:
            own = request_id(*place, parsed.custom_id, parsed.answer_key, 0)
            self._named[name] = (body, own, 0)
            return own, None
        first_body, first, repeats = earlier
        if first_body != body:
            raise QuarantineError(
                QuarantineCode.DUPLICATE_CUSTOM_ID_CONFLICT,
                "custom_id",
                "an earlier line has this custom_id and another body",
            )
        self._named[name] = (body, first, repeats + 1)
        return request_id(*place, parsed.custom_id, parsed.answer_key, repeats + 1), first

    def _quarantine_row(self, line: RawLine, reason: QuarantineError) -> dict[str, Any]:
        # A character has at most four bytes.
        text = line.data[: 4 * RAW_TEXT_CHARACTERS].decode(errors="replace")
        return self._place | {
            "source_line": line.number,
            "byte_offset": line.offset,
            "byte_length": line.length,
            "code": reason.code.value,
            "field": reason.field,
            "message": reason.message,
            "raw_text": bounded(text, RAW_TEXT_CHARACTERS),
        }


def decode_line(line: RawLine) -> dict[str, Any] | None:
    """Decode one line into a JSON object; None for a blank line.

    Raises
    ------
    QuarantineError
        `line_too_long`, `invalid_utf8`, `invalid_json` or `not_an_object`.
    """
    if line.too_long:
        raise QuarantineError(QuarantineCode.LINE_TOO_LONG, None, "the line is longer than the limit")
    data = line.data.removeprefix(_BOM) if line.number == 1 else line.data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise QuarantineError(QuarantineCode.INVALID_UTF8, None, "the line is not UTF-8") from None
    if not text.strip(" \t\r\n"):
        return None
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
            _check_depth(record)
        if _SURROGATE.search(data):
            canonical_json(record).encode()
    except (ValueError, RecursionError) as error:
        # A decode error's own text holds a position and no content; others may quote the line.
        detail = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        message = f"the line is not JSON{': ' if detail else ''}{detail}"
        raise QuarantineError(QuarantineCode.INVALID_JSON, None, message) from None
    if not isinstance(record, dict):
        raise QuarantineError(QuarantineCode.NOT_AN_OBJECT, None, "the line is JSON but not an object")
    return record


def read_envelope(record: Mapping[str, Any]) -> tuple[Endpoint, str | None, dict[str, Any]]:
    """Return endpoint, `custom_id` and body of a record.

    Raises
    ------
    QuarantineError
        If they do not make a request.
    """
    custom_id = record.get("custom_id")
    if custom_id is not None and (not isinstance(custom_id, str) or not custom_id):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "custom_id", "must be a string, not empty")
    method = record.get("method")
    if method is not None and method != "POST":
        raise QuarantineError(QuarantineCode.UNSUPPORTED_METHOD, "method", "must be POST")
    for name in ("url", "body"):
        if record.get(name) is None:
            raise QuarantineError(QuarantineCode.MISSING_FIELD, name, f"the line has no {name}")
    url, body = record["url"], record["body"]
    if not isinstance(url, str):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "url", "must be a string")
    if url not in ENDPOINTS:
        known = " or ".join(ENDPOINTS)
        raise QuarantineError(QuarantineCode.UNSUPPORTED_URL, "url", f"must be {known}")
    if not isinstance(body, dict):
        raise QuarantineError(QuarantineCode.INVALID_FIELD, "body", "must be an object")
    return ENDPOINTS[url], custom_id, body


def parse_body(
    record: Mapping[str, Any],
    endpoint: Endpoint,
    custom_id: str | None,
    body: Mapping[str, Any],
    defaults: SamplingDefaults,
) -> ParsedLine:
    """Read a request's body; what cannot be answered gives a line with its `error` set, never an exception.

    Raises
    ------
    QuarantineError
        `invalid_json`, if it holds a number beyond what JSON can be written with (1e999).
    """
    parsed = ParsedLine(endpoint, custom_id)
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        parsed.workload = _label(metadata.get("workload")) or DEFAULT_WORKLOAD
        parsed.tenant = _label(metadata.get("tenant"))
    try:
        parsed.passthrough_json = _passthrough(record, body)
        rest = canonical_json({name: body[name] for name in body if name != CONTENT_FIELD[endpoint]})
        try:
            content = _read_answerable(parsed, body, defaults)
        except RequestError as error:
            parsed.error = error
            content = text_digest(canonical_json(body.get(CONTENT_FIELD[endpoint])))
            parsed.answer_key = digest("unanswerable", endpoint, content, rest)
        parsed.body_digest = digest("body", endpoint, content, rest)
    except ValueError:
        raise QuarantineError(
            QuarantineCode.INVALID_JSON, None, "the line holds a number or text beyond JSON"
        ) from None
    return parsed


def _read_answerable(parsed: ParsedLine, body: Mapping[str, Any], defaults: SamplingDefaults) -> str:
    """Fill in what an answerable body asks for, and return the digest of its prompt."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(ErrorCode.INVALID_PARAMETER, "model", "must be a string")
    parsed.requested_model = model
    check_supported(body, parsed.endpoint)
    explicit = explicit_sampling(body, parsed.endpoint)
    parsed.max_tokens = explicit.get("max_tokens")
    parsed.sampling = {name: explicit[name] for name in explicit if name != "max_tokens"} or None
    parsed.content = chat_content(body) if parsed.endpoint == "chat" else completion_content(body)
    content = text_digest(content_text(parsed.content))
    parsed.answer_key = answer_key(parsed.endpoint, content, effective_sampling(explicit, defaults))
    return content


def _passthrough(record: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
    kept = {
        "envelope": {name: record[name] for name in record if name not in _ENVELOPE},
        "body": {name: body[name] for name in body if name in WITHOUT_EFFECT},
    }
    present = {name: fields for name, fields in kept.items() if fields}
    return canonical_json(present) if present else None


def _label(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_depth(record: object) -> None:
    # Deep nesting would pass or fail by how deep the caller's own stack is.
    level = [record]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _children(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()
