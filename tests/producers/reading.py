"""What became of every record of a log, read by the readers of step extract."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from tasks.base.errors import QuarantineError
from tasks.extract.extract import MAX_LINE_BYTES, ExtractSettings, extract
from tasks.extract.parse.events import joined
from tasks.extract.parse.sniff import parquet_records, sniff
from tasks.extract.readers.generic import generic_reader
from tasks.extract.readers.registry import DEFAULT
from tasks.extract.text.containers import line_records
from tasks.extract.text.decode import decode_line
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.lines import BlockReader
from tests.support.parsing import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.extract.readers.contract import Reader

DAY = date(2026, 11, 30)


def read_folder(folder: Path, columns: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """Return what became of each record of the files of a folder, as `read_records` gives it."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            reader, records = _opened(path, generic_reader(columns) if columns else None)
            found += [_read(record, reader) for record in records]
    return found


def accounted(folder: Path, scratch: Path, columns: Mapping[str, str] | None) -> dict[str, int]:
    """Return the counts of step extract over a folder, and its filtered records by their reason."""
    settings = ExtractSettings(columns=dict(columns or {}))
    made = extract(str(folder), job="j", run_date=DAY, scratch=scratch, settings=settings)
    counts = made.account.counts()
    assert counts["lines"] == sum(counts[name] for name in ("blank", "filtered", "quarantined", "requests"))
    assert counts["filtered"] == sum(made.filtered_by.values())
    assert made.account.object_errors == 0
    return counts


def _read(record: object, reader: Reader) -> dict[str, Any]:
    if isinstance(record, QuarantineError):
        return {
            "outcome": "quarantined",
            "code": record.code.value,
            "message": str(record),
            "custom_id": None,
        }
    assert isinstance(record, dict)
    return read_records([record], reader)[0]


def _opened(path: Path, wanted: Reader | None) -> tuple[Reader, Iterator[object]]:
    with path.open("rb") as file:
        text = TextStream(file)
        found = sniff(text, MAX_LINE_BYTES, wanted)
        if found.kind == "parquet":
            reader, records = parquet_records(path, wanted)
            return reader, iter([record for record, _ in records])
        if found.kind == "jsonl":
            blocks = BlockReader(text, MAX_LINE_BYTES)
            lines = [line for block in blocks for line in block.split(MAX_LINE_BYTES)]
            given = [decode_line(line) for line in lines]
        else:
            items = line_records(found.kind, text, MAX_LINE_BYTES).records
            given = [record for record, _ in (joined(items) if "otlp" in found.kind else items)]
    return found.reader or DEFAULT, iter([record for record in given if record is not None])
