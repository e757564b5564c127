"""Records of a JSON document, in bounded memory: the objects of an array, or objects one after another."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.base.identity import canonical_json
from tasks.extract.text.decode import BOM, MAX_DEPTH, check_depth
from tasks.extract.text.lines import KEPT_BYTES, RawLine, ReadFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.extract.text.decode import Item
    from tasks.extract.text.decompress import TextStream

_SPACE: Final = " \t\r\n"
# Stands for NaN and the like; it cannot be written as UTF-8, so the record is refused.
_CONSTANT: Final = "\ud800"
_NEXT_OBJECT: Final = "\n{"
# Of those that may be cut: "-Infinity", an escaped pair of surrogates.
_LONGEST_TOKEN: Final = 16


class DocumentReader:
    """Iterate once over the records of a document.

    Parameters
    ----------
    text : TextStream
        The document.
    max_record_bytes : int
        A longer record goes to quarantine; one that does not end within it ends the reading. So does a broken
        one, unless another object begins a line behind it.

    Attributes
    ----------
    failure : ReadFailure or None
        After the iteration: what could not be read, from the first place where the document is broken.
    """

    def __init__(self, text: TextStream, max_record_bytes: int) -> None:
        self.failure: ReadFailure | None = None
        self._text = text
        self._chunks = iter(text)
        self._limit = max_record_bytes
        # Bytes that are no UTF-8 survive as lone surrogates, so that they cost one record only.
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._decoder = json.JSONDecoder(parse_constant=lambda _: _CONSTANT)
        self._buffer = ""
        self._place = 0
        # Byte offset of a place in the buffer; moved along, never counted anew.
        self._known_place, self._known_offset = 0, 0
        self._ended = False

    def __iter__(self) -> Iterator[Item]:
        array = self._next_character("\ufeff") == "["
        if array:
            self._place += 1
        number = 0
        while (character := self._next_character("," if array and number else "")) is not None:
            if array and character == "]":
                self._place += 1
                array = False
                continue
            offset = self._offset()
            found = self._record()
            if found is None and not array and (piece := self._up_to_next_object()) is not None:
                number += 1
                reason = QuarantineError(QuarantineCode.INVALID_JSON, None, "the record is not JSON")
                yield reason, self._line(number, offset, piece)
                continue
            if found is None:
                damage = self._text.damage or f"the JSON document is broken after {number} records"
                self.failure = ReadFailure(self._text.bytes_read, offset, damage)
                return
            number += 1
            yield self._item(number, offset, *found)
        if self._text.damage is not None or array:
            message = self._text.damage or "the JSON document ends inside of its array"
            self.failure = ReadFailure(self._text.bytes_read, self._offset(), message)

    def _item(self, number: int, offset: int, value: object, text: str) -> Item:
        line = self._line(number, offset, text)
        return _checked(value, text, line), line

    def _line(self, number: int, offset: int, text: str) -> RawLine:
        data = text.encode("utf-8", "surrogateescape")
        kept, end = data[:KEPT_BYTES], data[KEPT_BYTES:][-KEPT_BYTES:]
        return RawLine(number, offset, len(data), kept, len(data) > self._limit, end)

    def _up_to_next_object(self) -> str | None:
        """Return the text before the next object that begins a line, which becomes the present place.

        None if there is no such object within the limit.
        """
        searched = self._place
        while (found := self._buffer.find(_NEXT_OBJECT, searched)) < 0:
            have = len(self._buffer) - self._place
            if have > 2 * self._limit or not self._more():
                return None
            searched = max(have - 1, 0)
        text = self._buffer[self._place : found]
        self._place = found + 1
        return text

    def _offset(self) -> int:
        self._known_offset += _bytes(self._buffer[self._known_place : self._place])
        self._known_place = self._place
        return self._known_offset

    def _next_character(self, skipped: str) -> str | None:
        while True:
            while self._place < len(self._buffer) and self._buffer[self._place] in _SPACE + skipped:
                self._place += 1
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._more():
                return None

    def _more(self) -> bool:
        """Read on; the buffer then begins at the present place."""
        if self._ended:
            return False
        chunk = next(self._chunks, None)
        self._ended = chunk is None
        self._offset()
        self._buffer = self._buffer[self._place :] + self._utf8.decode(chunk or b"", final=self._ended)
        self._place = self._known_place = 0
        return True

    def _record(self) -> tuple[Any, str] | None:
        """Return the next value and its text, None if there is no whole one."""
        while True:
            have = len(self._buffer) - self._place
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._place)
            except json.JSONDecodeError as error:
                if _is_broken(error):
                    return None
            except RecursionError:
                return None
            else:
                # A number at the end of the buffer may go on.
                if end < len(self._buffer) or self._ended or isinstance(value, dict | list):
                    text = self._buffer[self._place : end]
                    self._place = end
                    return value, text
            if self._ended or have > 2 * self._limit:
                return None
            # Twice as much before the next try: a long record is not parsed again for every piece of it.
            while len(self._buffer) - self._place < 2 * have and self._more():
                pass


def _is_broken(error: json.JSONDecodeError) -> bool:
    """Tell text that is no JSON from the beginning of one: the error is not where the text ends."""
    return not error.msg.startswith("Unterminated string") and error.pos < len(error.doc) - _LONGEST_TOKEN


def _checked(value: object, text: str, line: RawLine) -> dict[str, Any] | QuarantineError:
    if line.too_long:
        return QuarantineError(QuarantineCode.LINE_TOO_LONG, None, "the record is longer than the limit")
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        return QuarantineError(QuarantineCode.INVALID_UTF8, None, "the record is not UTF-8")
    try:
        check_depth(value)
        canonical_json(value).encode()
    except (ValueError, RecursionError):
        message = f"the record holds text or numbers beyond JSON, or over {MAX_DEPTH} levels"
        return QuarantineError(QuarantineCode.INVALID_JSON, None, message)
    if not isinstance(value, dict):
        return QuarantineError(QuarantineCode.NOT_AN_OBJECT, None, "the record is JSON but not an object")
    return value


def sample_documents(start: bytes, most: int = 20) -> list[dict[str, Any]]:
    """Return the first records of the beginning of a document."""
    text = start.decode(errors="replace")
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    end = int(text.startswith("["))
    while len(found) < most:
        while end < len(text) and text[end] in _SPACE + ",":
            end += 1
        try:
            value, end = decoder.raw_decode(text, end)
        except (ValueError, RecursionError):
            break
        if isinstance(value, dict):
            found.append(value)
    return found


def json_end(start: bytes) -> tuple[int, bool]:
    """Return where the first JSON value of a text ends, and True; or where it breaks off, and False."""
    # One character for each byte, whatever they mean: only the places count.
    text = start.decode("latin-1")
    try:
        return json.JSONDecoder().raw_decode(text)[1], True
    except json.JSONDecodeError as error:
        return error.pos, False
    except RecursionError:
        return 0, False


def is_concatenated(line: bytes) -> bool:
    """Tell whether a line begins with a JSON object and another one right behind it."""
    line = line.removeprefix(BOM).lstrip()
    if not line.startswith(b"{"):
        return False
    end, whole = json_end(line)
    return whole and line[end:].lstrip().startswith(b"{")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
