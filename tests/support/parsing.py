"""Text parsed line by line with the parser of step extract, so that a test sees what became of each line."""

from __future__ import annotations

import io
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tasks.base.schema import error_row
from tasks.extract.parse.drafts import Drafts
from tasks.extract.parse.record_parser import ParseSettings, Place, RecordParser
from tasks.extract.parse.repeats import RepeatCounter
from tasks.extract.readers.registry import DEFAULT, detect
from tasks.extract.text import decompress
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.lines import BlockReader, RawLine
from tasks.requests.sampling import SamplingDefaults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.extract.readers.contract import Reader
    from tasks.extract.text.decompress import Codec
    from tasks.extract.text.lines import ReadFailure


class Outcome(StrEnum):
    """Where a line went."""

    BLANK = "blank"
    FILTERED = "filtered"
    QUARANTINED = "quarantined"
    REQUEST = "request"
    ERROR = "error"


def read_lines(
    data: bytes, *, max_line_bytes: int, codec: Codec = "plain"
) -> tuple[list[RawLine], ReadFailure | None]:
    """Return the lines of an object, and what could not be read."""
    blocks = BlockReader(TextStream(io.BytesIO(data), codec), max_line_bytes, decompress.CHUNK_BYTES)
    return [line for block in blocks for line in block.split(max_line_bytes)], blocks.failure


def read_records(records: list[dict[str, Any]], reader: Reader | None = None) -> list[dict[str, Any]]:
    """Return what became of each record of one object.

    A result is the record's row with the keys `outcome`, `code` and `field`, and `reason` if it was filtered.

    The reader is told by the content, if none is given.
    """
    found = reader or detect(records) or DEFAULT
    place = Place("job", date(2026, 3, 1), "s3://logs/day")
    parser = RecordParser(place, ParseSettings(SamplingDefaults()), found)
    results = []
    for number, record in enumerate(records, 1):
        drafts = Drafts()
        parser.add_record(record, RawLine(number, 0, 1, b"{", too_long=False), drafts)
        result: dict[str, Any] = {"format": found.name, "code": None, "field": None}
        if drafts.quarantine:
            result |= {**drafts.quarantine[0], "outcome": Outcome.QUARANTINED}
        elif not drafts.rows:
            result |= {"outcome": Outcome.FILTERED, "reason": next(iter(drafts.counts.reasons), None)}
        else:
            error = drafts.errors[0]
            result |= drafts.row(0) | {"outcome": Outcome.REQUEST}
            if error is not None:
                result |= {"outcome": Outcome.ERROR, "code": error.code.value, "field": error.field}
        results.append(result)
    return results


def parse_lines(
    data: bytes,
    place: tuple[str, date, str],
    defaults: SamplingDefaults,
    *,
    max_line_bytes: int,
    model_filter: tuple[str, ...] = (),
) -> Iterator[tuple[Outcome, dict[str, Any] | None]]:
    """Yield for each line where it went, and its row of the table requests, errors or quarantine."""
    parser = RecordParser(Place(*place), ParseSettings(defaults, model_filter), DEFAULT)
    repeats = RepeatCounter()
    for line in read_lines(data, max_line_bytes=max_line_bytes)[0]:
        drafts = Drafts()
        parser.add_line(line, drafts)
        parser.settle(drafts, repeats.resolve(*drafts.digests()))
        if drafts.quarantine:
            yield Outcome.QUARANTINED, drafts.quarantine[0]
        elif not drafts.rows:
            yield (Outcome.BLANK if drafts.counts.blank else Outcome.FILTERED), None
        else:
            row, error = drafts.row(0), drafts.errors[0]
            yield (Outcome.REQUEST, row) if error is None else (Outcome.ERROR, error_row(row, error))
