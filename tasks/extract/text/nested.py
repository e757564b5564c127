"""Records in lists inside of a document, each one a record: OTLP batches, and lists that are wrapped.

OTLP is `{resourceSpans: [{scopeSpans: [{spans: [...]}]}]}`, and the like for log records; what APIs return is
`{data: [...], meta: ...}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tasks.extract.text.documents import DocumentReader
from tasks.extract.text.lines import ReadFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.extract.text.decode import Item
    from tasks.extract.text.decompress import TextStream

Path: TypeAlias = tuple[tuple[str, ...], ...]
"""Names of the lists on the way to the records, the outermost first."""

# The names of the protocol's JSON, of protobuf's own, and of the protocol before version 0.16.
BATCHES: Final = ("resourceSpans", "resource_spans", "resourceLogs", "resource_logs")
OTLP: Final[Path] = (
    BATCHES,
    (
        *("scopeSpans", "scope_spans", "instrumentationLibrarySpans", "instrumentation_library_spans"),
        *("scopeLogs", "scope_logs"),
    ),
    ("spans", "logRecords", "log_records"),
)
WRAPPED: Final[Path] = (("data", "records", "Records", "items", "requests", "rows", "observations"),)


def spans_of(record: Mapping[str, Any], path: Path = OTLP) -> Iterator[dict[str, Any]]:
    """Yield the spans of a batch that was decoded."""
    for name in path[0]:
        items = record.get(name)
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                yield from spans_of(item, path[1:]) if len(path) > 1 else (item,)


class NestedDocument(DocumentReader):
    """Iterate once over the records in a document, or in several ones, on any number of lines.

    Only a record is held at a time, however long its list is.

    Parameters
    ----------
    text, max_record_bytes
        As for `DocumentReader`.
    path : Path
        Where the records are: `OTLP`, `WRAPPED`.
    """

    def __init__(self, text: TextStream, max_record_bytes: int, path: Path) -> None:
        super().__init__(text, max_record_bytes)
        self._path = path
        self._number = 0

    def __iter__(self) -> Iterator[Item]:
        try:
            yield from self._documents()
        except _BrokenError:
            damage = self._text.damage or f"the JSON document is broken after {self._number} records"
            self.failure = ReadFailure(self._text.bytes_read, self._offset(), damage)

    def _documents(self) -> Iterator[Item]:
        """Walk through documents one after the other, or those of one array."""
        array = False
        while (character := self._next_character(",\ufeff")) is not None:
            if character == "{":
                yield from self._inside(self._path)
                continue
            if character != ("]" if array else "["):
                raise _BrokenError
            array = not array
            self._place += 1
        if array or self._text.damage is not None:
            raise _BrokenError

    def _inside(self, path: Path) -> Iterator[Item]:
        """Walk through an object that begins here, and down the lists of the path."""
        self._place += 1
        while self._expected(",") != "}":
            name = self._value()
            if self._expected() != ":":
                raise _BrokenError
            self._place += 1
            if self._expected() != "[" or name not in path[0]:
                self._value()
                continue
            self._place += 1
            while (character := self._expected(",")) != "]":
                if len(path) == 1:
                    yield self._nested()
                elif character == "{":
                    yield from self._inside(path[1:])
                else:
                    self._value()
            self._place += 1
        self._place += 1

    def _expected(self, skipped: str = "") -> str:
        character = self._next_character(skipped)
        if character is None:
            raise _BrokenError
        return character

    def _value(self) -> object:
        found = self._record()
        if found is None:
            raise _BrokenError
        return found[0]

    def _nested(self) -> Item:
        offset = self._offset()
        found = self._record()
        if found is None:
            raise _BrokenError
        self._number += 1
        return self._item(self._number, offset, *found)


class _BrokenError(Exception):
    """The document is no JSON from here, or it ends."""
