"""The bytes of a line -> a JSON object, or the reason why it is none."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import orjson

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.base.identity import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.extract.text.lines import RawLine

Item: TypeAlias = "tuple[dict[str, Any] | QuarantineError | None, RawLine]"
"""A record and the line it came from; in its place why a piece is none, or None for a blank one."""

MAX_DEPTH: Final = 100
_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
BOM: Final = b"\xef\xbb\xbf"
_SPACE: Final = b" \t\r\n"


def decode_line(line: RawLine, *, exact: bool = True) -> dict[str, Any] | None:
    """Decode one line into a JSON object; None for a blank line.

    Parameters
    ----------
    line : RawLine
        The line.
    exact : bool
        False is several times faster and makes whole numbers beyond 64 bits floats; everything else, and
        which lines are refused for what, is the same.

    Raises
    ------
    QuarantineError
        `line_too_long`, `invalid_utf8`, `invalid_json` or `not_an_object`.
    """
    if line.too_long:
        raise QuarantineError(QuarantineCode.LINE_TOO_LONG, None, "the line is longer than the limit")
    data = line.data.removeprefix(BOM) if line.number == 1 else line.data
    record: Any = None
    if not exact:
        try:
            record = orjson.loads(data)
        except orjson.JSONDecodeError:
            # Says what is wrong, or knows better: text that has lone surrogates may still be dropped.
            exact = True
    if exact:
        text = _text(data)
        if not text.strip(" \t\r\n"):
            return None
        record = _loads(text, data)
    elif data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        try:
            check_depth(record)
        except ValueError:
            raise _not_json("") from None
    if not isinstance(record, dict):
        raise QuarantineError(QuarantineCode.NOT_AN_OBJECT, None, "the line is JSON but not an object")
    return record


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise QuarantineError(QuarantineCode.INVALID_UTF8, None, "the line is not UTF-8") from None


def _loads(text: str, data: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
            check_depth(record)
        if _SURROGATE.search(data):
            canonical_json(record).encode()
    except (ValueError, RecursionError) as error:
        # A decode error's own text holds a position and no content; others may quote the line.
        detail = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise _not_json(detail) from None
    return record


def _not_json(detail: str) -> QuarantineError:
    message = f"the line is not JSON{': ' if detail else ''}{detail}"
    return QuarantineError(QuarantineCode.INVALID_JSON, None, message)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def check_depth(record: object) -> None:
    """Raise `ValueError` if a value is nested too deeply.

    Deep nesting would else pass or fail by how deep the caller's own stack is.
    """
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
