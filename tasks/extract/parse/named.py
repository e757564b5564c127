"""The `custom_id` of a line that is no request: whoever sent it finds it again by this name.

A line that was cut, or is JSON beyond what a record may hold, is not parsed: its own fields are found by
their place, those that are nested deeper never are.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tasks.base.errors import QuarantineCode
from tasks.base.identity import canonical_json
from tasks.extract.text.decode import BOM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.extract.text.lines import RawLine

CUSTOM_ID: Final = "custom_id"
_TEXT: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN: Final = re.compile(rf'\s*(?:({_TEXT})|([\[{{])|([\]}}])|([:,])|([^\s\[\]{{}}:,"]+))', re.DOTALL)
_DECODER: Final = json.JSONDecoder()


def name_in(record: Mapping[str, Any], field: str = CUSTOM_ID) -> str | None:
    """Return a record's own name: a text, or the JSON of what stands in its place; None if it has none."""
    value = record.get(field)
    if value is None or value == "":
        return None
    try:
        name = value if isinstance(value, str) else canonical_json(value)
        name.encode()
    except (TypeError, ValueError, RecursionError):
        # Nothing that could be written into a result.
        return None
    return name


def name_in_text(line: RawLine, code: QuarantineCode, field: str = CUSTOM_ID) -> str | None:
    """Return the name of a line that could not be made a record, for the reason `code`; None if it has none.

    Parameters
    ----------
    line : RawLine
        The line.
    code : QuarantineCode
        A line that is too long is taken for JSON, of which its beginning and its end are known. One that is
        `invalid_json` has a name only if it is JSON all the same: with numbers that no float holds, texts
        that UTF-8 does not have, or nested too deeply.
    field : str
        The field that holds the name.
    """
    if code is QuarantineCode.LINE_TOO_LONG:
        begins = _decoded(line.data.removeprefix(BOM) if line.number == 1 else line.data)
        found = _named(_members(begins), field)
        return _named(_last_members(line.end, field), field) if found is None else found
    if code is not QuarantineCode.INVALID_JSON:
        return None
    whole = line.data + line.end
    text = _decoded(whole.removeprefix(BOM) if line.number == 1 else whole)
    try:
        record = json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
    except ValueError:
        return None
    except RecursionError:
        # Whether such a line is JSON to its end nobody can tell; its own fields stand there.
        return _named(_members(text), field)
    return name_in(record, field) if isinstance(record, dict) else None


def _decoded(data: bytes) -> str:
    """Return the text of bytes whose last character may be cut; nothing if they are not UTF-8."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return ""


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Yield the fields of an object that are texts or numbers, each as JSON, as far as it is there."""
    tokens = _TOKEN.finditer(text)
    first = next(tokens, None)
    if first is None or first[2] != "{" or first.start():
        return
    yield from _at_depth_one(text, first.end())


def _last_members(data: bytes, field: str) -> Iterator[tuple[str, str]]:
    """Yield a field whose value is a text or a number from the end of an object, if it is the object's own.

    A quote within a text is written with a backslash, so one without, around the field's name and before a
    colon, belongs to a key, also where what precedes it is not known.
    """
    text = data.decode(errors="replace").rstrip()
    for key in re.finditer(rf"(?<!\\){re.escape(json.dumps(field))}(?=\s*:)", text):
        depth, end = 1, -1
        for token in _TOKEN.finditer(text, key.start()):
            depth += (token[2] is not None) - (token[3] is not None)
            end = token.end()
            if depth == 0:
                break
        if depth == 0 and end == len(text):
            yield from _at_depth_one(text, key.start())


def _at_depth_one(text: str, begin: int) -> Iterator[tuple[str, str]]:
    depth, held = 1, ["", "", ""]
    at = begin
    for token in _TOKEN.finditer(text, begin):
        if token.start() != at or depth == 0:
            # A text without its end, or what follows the object.
            return
        at = token.end()
        depth += (token[2] is not None) - (token[3] is not None)
        if depth == 1:
            held = [*held[1:], token[0].strip()]
            cut = token[1] is None and at == len(text)
            if held[1] == ":" and (token[1] or token[5]) and not cut:
                yield held[0], held[2]


def _named(members: Iterator[tuple[str, str]], field: str) -> str | None:
    for key, value in members:
        try:
            found = {_DECODER.decode(key): value if value[0] != '"' else _DECODER.decode(value)}
        except ValueError:
            return None
        if field in found and value != "null":
            return name_in(found, field)
    return None


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
