"""What an object is, told by its content: how its records are found, and the reader of their format."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson

from tasks.extract.readers import registry
from tasks.extract.readers.contract import is_name, unrecognised
from tasks.extract.text.containers import csv_fields, csv_rows, holds_spans, spans_in
from tasks.extract.text.decode import BOM
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.documents import is_concatenated, json_end, sample_documents
from tasks.extract.text.frames import frame_rows
from tasks.extract.text.nested import BATCHES, WRAPPED, NestedDocument
from tasks.extract.text.parquet_rows import PARQUET_MAGIC, ParquetRows
from tasks.requests.formats import GENERIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.extract.readers.contract import Reader
    from tasks.extract.text.containers import Kind
    from tasks.extract.text.decode import Item

HEAD_BYTES: Final = 256 << 10
_SAMPLED: Final = 200
_OTLP: Final = re.compile(rb'\[?\s*\{\s*"(' + "|".join(BATCHES).encode() + rb')"\s*:')

_TRACE: Final = re.compile(rb'\[?\s*\{\s*"info"\s*:\s*\{[^{}]*"trace_id"')
"""How a trace of MLflow begins."""


@dataclass(slots=True)
class Sniffed:
    """What an object is.

    Attributes
    ----------
    kind
        How its records are found.
    reader
        Their format; None if no record of a JSON object is known.
    records
        The first of them that were looked at: whole JSON objects, or the header of a CSV table.
    """

    kind: Kind
    reader: Reader | None
    records: list[dict[str, Any]] = field(default_factory=list)


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
    while b"\n" not in head and len(head) == size and size < max_line_bytes and not is_concatenated(head):
        size = min(4 * size, max_line_bytes)
        head = text.head(size)
    if head.startswith(PARQUET_MAGIC):
        return Sniffed("parquet", wanted)
    start = head.removeprefix(BOM).lstrip()
    first, _, more = start.partition(b"\n")
    if _is_document(start, first, more):
        records = sample_documents(start)
        if _OTLP.match(start):
            return _otlp("otlp-document", records, wanted)
        if holds_spans(records[0]) if records else _TRACE.match(start):
            return _otlp("traces", records, wanted)
        return _plain_or_wrapped("document", start, records, wanted)
    if not start.startswith((b"{", b"[")):
        names: dict[str, Any] = dict.fromkeys(csv_fields(first) or [])
        rows = [names, *csv_rows(start)]
        reader = wanted or registry.detect(rows)
        known = reader is not None and any(_has_columns(reader, row) for row in rows)
        if known or _is_table(list(names), more):
            by_header = reader is None or _has_columns(reader, names)
            return Sniffed("csv", reader, [names] if by_header else rows[1:])
    records, concatenated = _json_lines(start, complete=len(head) < size)
    if concatenated:
        records = sample_documents(start, _SAMPLED)
        return Sniffed("document", wanted or registry.detect(records), records)
    if records and holds_spans(records[0]):
        return _otlp("otlp", records, wanted)
    if not more.strip():
        return _plain_or_wrapped("jsonl", start, records, wanted)
    return Sniffed("jsonl", wanted or registry.detect(records), records)


def _plain_or_wrapped(
    kind: Kind, start: bytes, records: list[dict[str, Any]], wanted: Reader | None
) -> Sniffed:
    """Return what a document is: records, or one object that is a table or has a list of known records."""
    rows = frame_rows(records[0]) if len(records) == 1 else None
    if rows:
        return Sniffed("frame", wanted or registry.detect(rows), rows[:_SAMPLED])
    if _known(records, wanted) is None:
        inner = NestedDocument(TextStream(io.BytesIO(start), "plain"), len(start), WRAPPED)
        nested = [record for record, _ in islice(inner, _SAMPLED) if isinstance(record, dict)]
        reader = _known(nested, wanted)
        if reader is not None:
            return Sniffed("wrapped", reader, nested)
    return Sniffed(kind, wanted or registry.detect(records), records)


def _known(records: list[dict[str, Any]], wanted: Reader | None) -> Reader | None:
    """Return the format of records; None if they are of none, or not of the one that is wanted."""
    if wanted is None:
        return registry.detect(records)
    return wanted if any(_has_columns(wanted, record) for record in records) else None


def _otlp(kind: Kind, batches: list[dict[str, Any]], wanted: Reader | None) -> Sniffed:
    spans = [span for batch in batches for span in spans_in(batch)]
    return Sniffed(kind, wanted or registry.READERS["otel"], spans[:_SAMPLED])


def _is_table(names: list[str], more: bytes) -> bool:
    """Tell the header of a CSV table: names of fields, the first of which may be empty (an index).

    JSON behind it makes it a line of JSON that was broken.
    """
    if names[:1] == [""]:
        names = names[1:]
    lines = more.split(b"\n", _SAMPLED)[:_SAMPLED]
    if any(line.lstrip().startswith((b"{", b"[")) for line in lines):
        return False
    return len(names) > 1 and all(is_name(name) for name in names)


def looks_like(found: Sniffed, text: TextStream) -> str:
    """Tell what the beginning of an object of no known format looks like: names of fields alone."""
    if found.records:
        return unrecognised(found.records[0])
    first = text.head(HEAD_BYTES).removeprefix(BOM).lstrip().partition(b"\n")[0]
    names = csv_fields(first) or []
    if len(names) > 1 and all(is_name(name) for name in names):
        return unrecognised(names)
    return "no line at its beginning is a JSON object, and the first is no header of a table"


def parquet_look(path: Path) -> list[dict[str, Any]]:
    """Return what tells the format of a Parquet file: its first row; its columns, if it has no row.

    Raises
    ------
    pyarrow.ArrowException, OSError, ValueError
        If it is damaged.
    """
    rows = ParquetRows(path)
    return rows.first() or [dict.fromkeys(rows.columns)]


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
    rows = ParquetRows(path)
    reader = wanted
    if reader is None:
        reader = registry.detect([*rows.first(), dict.fromkeys(rows.columns)]) or registry.DEFAULT
    return reader, rows.records(reader.columns)


def _is_document(start: bytes, first: bytes, more: bytes) -> bool:
    """Tell a JSON array of objects, or an object over several lines, from lines of JSON."""
    if start.startswith(b"["):
        if not start[1:].lstrip().startswith(b"{"):
            return False
        # One whole array in the first of several lines is a line.
        return not (more.strip() and _is_json(first))
    second = more.lstrip().partition(b"\n")[0]
    if not start.startswith(b"{") or not second or _is_json(first):
        return False
    if not first[1:].strip():
        return second[:1] in {b'"', b"}"}
    end, whole = json_end(start)
    # Where a line was cut, what follows it is a line by itself.
    return end > len(first) and (whole or not _is_json(second))


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _json_lines(start: bytes, *, complete: bool) -> tuple[list[dict[str, Any]], bool]:
    """Return the objects among the first lines, and whether most lines hold several behind each other."""
    pieces = start.split(b"\n", _SAMPLED)
    if (len(pieces) > _SAMPLED or not complete) and len(pieces) > 1:
        pieces.pop()
    found, several = [], 0
    for piece in pieces:
        try:
            record = orjson.loads(piece)
        except orjson.JSONDecodeError:
            several += is_concatenated(piece)
            continue
        if isinstance(record, dict):
            found.append(record)
    # A single one is a line that was written twice, or whose line end was lost: it is quarantined.
    return found, several > len(found)


def _has_columns(reader: Reader, names: Mapping[str, Any]) -> bool:
    wanted = reader.columns
    return reader.matches(names) if reader.name != GENERIC else bool(set(wanted or ()) & names.keys())
