"""What an object is made of: lines of JSON, one JSON document, OTLP batches, a CSV table or a Parquet file.

Told by content. A record is a dict with the `RawLine` it came from; a piece that is no record is a
`QuarantineError` in its place and a blank one None, so that nothing is passed over.
"""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.readers import registry
from tasks.extract.text.decode import decode_line
from tasks.extract.text.documents import DocumentReader, sample_documents
from tasks.extract.text.lines import BlockReader, RawLine, ReadFailure
from tasks.requests.formats import GENERIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from tasks.extract.readers.contract import Reader
    from tasks.extract.text.decompress import TextStream

Kind = Literal["jsonl", "otlp", "document", "csv", "parquet"]
Item = tuple[dict[str, Any] | QuarantineError | None, RawLine]

HEAD_BYTES: Final = 256 << 10
PARQUET_MAGIC: Final = b"PAR1"
_SAMPLED: Final = 200
_BOM: Final = b"\xef\xbb\xbf"
_PARQUET_ROWS: Final = 512
_THRIFT_LIMIT: Final = 64 << 20


@dataclass(slots=True)
class Sniffed:
    """What an object is.

    Attributes
    ----------
    kind
        How its records are found.
    reader
        Their format; None if no record of a JSON object is known.
    """

    kind: Kind
    reader: Reader | None


def sniff(text: TextStream, max_line_bytes: int, wanted: Reader | None) -> Sniffed:
    """Tell what an object is by the beginning of its text.

    Parameters
    ----------
    text : TextStream
        Nothing of it is used up.
    max_line_bytes : int
        How far a first line is followed.
    wanted : Reader or None
        The format that was asked for; None to look for one.
    """
    size = HEAD_BYTES
    head = text.head(size)
    while b"\n" not in head and len(head) == size and size < max_line_bytes:
        size = min(4 * size, max_line_bytes)
        head = text.head(size)
    if head.startswith(PARQUET_MAGIC):
        return Sniffed("parquet", wanted)
    start = head.removeprefix(_BOM).lstrip()
    first, _, more = start.partition(b"\n")
    if _is_document(start, first, more):
        return Sniffed("document", wanted or registry.detect(sample_documents(start)))
    if not start.startswith((b"{", b"[")):
        names = dict.fromkeys(_row(first) or [])
        reader = wanted or registry.detect([names])
        if reader is not None and _has_columns(reader, names):
            return Sniffed("csv", reader)
    records = _json_lines(start, complete=len(head) < size)
    if records and "resourceSpans" in records[0]:
        return Sniffed("otlp", wanted or registry.READERS["otel"])
    return Sniffed("jsonl", wanted or registry.detect(records))


def line_records(kind: Kind, text: TextStream, max_line_bytes: int) -> RecordSource:
    """Return the records of OTLP batches, of a JSON document or of a CSV table."""
    if kind == "document":
        documents = DocumentReader(text, max_line_bytes)
        return RecordSource(documents, lambda: documents.failure)
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


def parquet_records(path: Path, wanted: Reader | None) -> tuple[Reader, Iterator[Item]]:
    """Open a Parquet file.

    Returns
    -------
    (Reader, iterator)
        The format by its columns and first row, and its rows.

    Raises
    ------
    pyarrow.ArrowException, OSError
        If it is damaged, from here or from the iterator.
    """
    file = pq.ParquetFile(
        path, thrift_string_size_limit=_THRIFT_LIMIT, thrift_container_size_limit=_THRIFT_LIMIT
    )
    reader = wanted
    if reader is None:
        names = dict.fromkeys(file.schema_arrow.names)
        batch = next(file.iter_batches(batch_size=1), None)
        first = batch.to_pylist() if batch is not None else []
        reader = registry.detect([*map(_plain, first), names]) or registry.DEFAULT
    columns = None
    if reader.columns is not None:
        columns = [name for name in file.schema_arrow.names if name in reader.columns]
    return reader, _rows(file, columns)


def _rows(file: pq.ParquetFile, columns: list[str] | None) -> Iterator[Item]:
    number = 0
    with file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _row_record(row, number)


def _row_record(row: dict[str, Any], number: int) -> Item:
    record: dict[str, Any] | QuarantineError
    try:
        record = _plain(row)
        data = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        reason = QuarantineError(QuarantineCode.INVALID_JSON, None, "the row holds what JSON does not have")
        return reason, RawLine(number, 0, 0, b"", False)  # noqa: FBT003
    # A Parquet row has no place in bytes of its own.
    return record, RawLine(number, 0, len(data), data, False)  # noqa: FBT003


def _plain(value: Any) -> Any:  # noqa: ANN401 - any Parquet value
    """Return a Parquet value as JSON has it; times at the top stay, for readers know them."""
    return {name: item if isinstance(item, datetime) else _json_value(item) for name, item in value.items()}


def _json_value(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        # Lists of (key, value) pairs are what pyarrow makes of maps.
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return {str(name): _json_value(item) for name, item in value}
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _is_document(start: bytes, first: bytes, more: bytes) -> bool:
    """Tell a JSON array of objects, or an object over several lines, from lines of JSON."""
    if start.startswith(b"["):
        if not start[1:].lstrip().startswith(b"{"):
            return False
        # One whole array in the first of several lines is a line.
        return not (more.strip() and _is_json(first))
    return start.startswith(b"{") and not first[1:].strip() and more.lstrip()[:1] in {b'"', b"}"}


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _json_lines(start: bytes, *, complete: bool) -> list[dict[str, Any]]:
    pieces = start.split(b"\n", _SAMPLED)
    if len(pieces) > _SAMPLED or not complete:
        pieces.pop()
    found = []
    for piece in pieces:
        try:
            record = orjson.loads(piece)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _has_columns(reader: Reader, names: Mapping[str, None]) -> bool:
    wanted = reader.columns
    return reader.matches(names) if reader.name != GENERIC else bool(set(wanted or ()) & names.keys())


def _row(data: bytes) -> list[str] | None:
    """Return the fields of one CSV record, None if it is none."""
    try:
        rows = list(csv.reader([data.decode()], strict=True))
    except (csv.Error, UnicodeDecodeError):
        return None
    return rows[0] if len(rows) == 1 else None


def _csv(lines: Iterator[RawLine], max_line_bytes: int) -> Iterator[Item]:
    """Yield the records of a CSV table; the header is none."""
    csv.field_size_limit(max(max_line_bytes, csv.field_size_limit()))
    names: list[str] | None = None
    number = 0
    for line in _joined(lines, max_line_bytes):
        if names is None:
            names = _row(line.data.removeprefix(_BOM).rstrip(b"\r")) or []
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


def _spans(lines: Iterator[RawLine]) -> Iterator[Item]:
    """Yield the spans of OTLP batches, each a record of its own."""
    number = 0
    for line in lines:
        found: list[dict[str, Any] | QuarantineError | None]
        try:
            record = decode_line(line)
            found = [None] if record is None else [*_nested(record)]
        except QuarantineError as reason:
            found = [reason]
        for span in found:
            number += 1
            yield span, line._replace(number=number)


def _nested(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in _dicts(record.get("resourceSpans")):
        for scope in _dicts(resource.get("scopeSpans")):
            yield from _dicts(scope.get("spans"))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)
"""What a damaged Parquet file raises."""
