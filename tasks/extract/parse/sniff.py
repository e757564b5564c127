"""What an object is, told by its content: how its records are found, and the reader of their format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from tasks.extract.readers import registry
from tasks.extract.text.containers import csv_fields, holds_spans
from tasks.extract.text.decode import BOM
from tasks.extract.text.documents import sample_documents
from tasks.extract.text.parquet_rows import PARQUET_MAGIC, ParquetRows
from tasks.requests.formats import GENERIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.extract.readers.contract import Reader
    from tasks.extract.text.containers import Kind
    from tasks.extract.text.decode import Item
    from tasks.extract.text.decompress import TextStream

HEAD_BYTES: Final = 256 << 10
_SAMPLED: Final = 200


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
    start = head.removeprefix(BOM).lstrip()
    first, _, more = start.partition(b"\n")
    if _is_document(start, first, more):
        return Sniffed("document", wanted or registry.detect(sample_documents(start)))
    if not start.startswith((b"{", b"[")):
        names = dict.fromkeys(csv_fields(first) or [])
        reader = wanted or registry.detect([names])
        if reader is not None and _has_columns(reader, names):
            return Sniffed("csv", reader)
    records = _json_lines(start, complete=len(head) < size)
    if records and holds_spans(records[0]):
        return Sniffed("otlp", wanted or registry.READERS["otel"])
    return Sniffed("jsonl", wanted or registry.detect(records))


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
