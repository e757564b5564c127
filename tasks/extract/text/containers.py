"""Text that is not lines of JSON: one JSON document, OTLP batches, a CSV table; and the records in it."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.text.decode import BOM, decode_line
from tasks.extract.text.documents import DocumentReader
from tasks.extract.text.frames import frame_rows
from tasks.extract.text.lines import BlockReader
from tasks.extract.text.nested import BATCHES, OTLP, WRAPPED, NestedDocument, spans_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tasks.extract.text.decode import Item
    from tasks.extract.text.decompress import TextStream
    from tasks.extract.text.lines import RawLine, ReadFailure
    from tasks.extract.text.nested import Path

Kind = Literal["jsonl", "otlp", "otlp-document", "traces", "wrapped", "frame", "document", "csv", "parquet"]
"""What an object is made of."""
_PATHS: Final[Mapping[Kind, Path]] = {"otlp-document": OTLP, "wrapped": WRAPPED}


def line_records(kind: Kind, text: TextStream, max_line_bytes: int) -> RecordSource:
    """Return the records of OTLP batches, of a JSON document or of a CSV table."""
    if kind in ("document", "traces", "frame") or kind in _PATHS:
        path = _PATHS.get(kind)
        documents = (
            DocumentReader(text, max_line_bytes)
            if path is None
            else NestedDocument(text, max_line_bytes, path)
        )
        inside = {"traces": spans_in, "frame": _rows}.get(kind)
        records = documents if inside is None else _spread(documents, inside)
        return RecordSource(records, lambda: documents.failure)
    blocks = BlockReader(text, max_line_bytes)
    lines = (line for block in blocks for line in block.split(max_line_bytes))
    return RecordSource(
        _spans(lines) if kind == "otlp" else _csv(lines, max_line_bytes), lambda: blocks.failure
    )


@dataclass(frozen=True, slots=True)
class RecordSource:
    """Records to iterate over once, and afterwards what could not be read."""

    records: Iterable[Item]
    failure: Callable[[], ReadFailure | None]


def csv_fields(data: bytes) -> list[str] | None:
    """Return the fields of one CSV record, None if it is none."""
    try:
        rows = list(csv.reader([data.decode()], strict=True))
    except (csv.Error, UnicodeDecodeError):
        return None
    return rows[0] if len(rows) == 1 else None


def csv_rows(data: bytes, most: int = 20) -> list[dict[str, str]]:
    """Return the first rows of the beginning of a CSV table, without those that have other fields."""
    reader = csv.reader(io.StringIO(data.decode(errors="replace"), newline=""), strict=True)
    rows: list[list[str]] = []
    # The beginning may end inside of quotes.
    with suppress(csv.Error):
        rows.extend(islice(reader, most + 1))
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if len(row) == len(rows[0])]


def _csv(lines: Iterator[RawLine], max_line_bytes: int) -> Iterator[Item]:
    """Yield the records of a CSV table; the header is none."""
    csv.field_size_limit(max(max_line_bytes, csv.field_size_limit()))
    names: list[str] | None = None
    number = 0
    for line in _joined(lines, max_line_bytes):
        if names is None:
            names = csv_fields(line.data.removeprefix(BOM).rstrip(b"\r")) or []
            continue
        number += 1
        placed = line._replace(number=number)
        if line.too_long:
            yield (
                QuarantineError(QuarantineCode.LINE_TOO_LONG, None, "the row is longer than the limit"),
                placed,
            )
            continue
        if not line.data.strip():
            yield None, placed
            continue
        try:
            text = line.data.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            yield QuarantineError(QuarantineCode.INVALID_UTF8, None, "the row is not UTF-8"), placed
            continue
        fields = _fields(text)
        if fields is None or len(fields) != len(names):
            message = (
                "the row has quotes in wrong places"
                if fields is None
                else "the row has other fields than the header"
            )
            yield QuarantineError(QuarantineCode.INVALID_ROW, None, message), placed
            continue
        yield dict(zip(names, fields, strict=True)), placed


def _fields(text: str) -> list[str] | None:
    if '"' not in text:
        return text.split(",")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _joined(lines: Iterator[RawLine], max_line_bytes: int) -> Iterator[RawLine]:
    """Join lines whose line end stands inside of quotes; a quote that never ends makes one bad row."""
    held: list[RawLine] = []
    size = quotes = 0
    for line in lines:
        if held and (line.too_long or size + line.length >= max_line_bytes):
            yield _together(held)
            held, size, quotes = [], 0, 0
        held.append(line)
        size += line.length + 1
        quotes += line.data.count(b'"')
        if line.too_long or quotes % 2 == 0:
            yield _together(held)
            held, size, quotes = [], 0, 0
    if held:
        yield _together(held)


def _together(lines: list[RawLine]) -> RawLine:
    if len(lines) == 1:
        return lines[0]
    data = b"\n".join([line.data for line in lines])
    return lines[0]._replace(data=data, length=len(data))


def holds_spans(record: Mapping[str, Any]) -> bool:
    """Tell a record that is a batch of OTLP or a trace of MLflow."""
    return not record.keys().isdisjoint(BATCHES) or _trace_spans(record) is not None


def spans_in(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the spans of such a record."""
    return [*spans_of(record), *_dicts(_trace_spans(record))]


def _spans(lines: Iterator[RawLine]) -> Iterator[Item]:
    """Yield the spans of lines that are OTLP batches or MLflow's traces."""

    def decoded() -> Iterator[Item]:
        for line in lines:
            try:
                yield decode_line(line), line
            except QuarantineError as reason:
                yield reason, line

    return _spread(decoded(), spans_in)


def _spread(
    records: Iterable[Item], inside: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
) -> Iterator[Item]:
    """Yield what is inside of records, each a record of its own."""
    number = 0
    for record, line in records:
        for one in inside(record) if isinstance(record, dict) else [record]:
            number += 1
            yield one, line._replace(number=number)


def _rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table in one object; another object behind it is a record as it is."""
    rows = frame_rows(document)
    return [dict(document)] if rows is None else rows


def _trace_spans(record: Mapping[str, Any]) -> object:
    """Return the spans of a trace of MLflow: `{info, data: {spans}}`, or a row of its search with `spans`."""
    data = record.get("data")
    if "info" in record and isinstance(data, dict) and isinstance(data.get("spans"), list):
        return data["spans"]
    return record.get("spans") if "trace_id" in record and "span_id" not in record else None


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
