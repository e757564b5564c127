"""One object -> its rows and its account, in this process or in blocks over several."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tasks.base.accounting import Account
from tasks.extract.parse.drafts import Drafts
from tasks.extract.parse.events import joined
from tasks.extract.parse.record_parser import RecordParser
from tasks.extract.parse.repeats import RepeatCounter
from tasks.extract.parse.sniff import looks_like, parquet_records, sniff
from tasks.extract.readers.registry import DEFAULT
from tasks.extract.text.containers import line_records
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.lines import BlockReader, ReadFailure
from tasks.extract.text.parquet_rows import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tasks.extract.parse.drafts import Counts
    from tasks.extract.parse.pool import ParsePool
    from tasks.extract.parse.record_parser import ParseSettings, Place
    from tasks.extract.parse.row_files import RowFiles
    from tasks.extract.readers.contract import Reader
    from tasks.extract.text.decode import Item
    from tasks.extract.text.decompress import Readable

_RECORDS: Final = 512


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """What became of an object.

    Attributes
    ----------
    account
        Its counts; the equation holds.
    format
        Name of the format it was read by.
    failure
        What could not be read, if anything.
    outside
        Requests made outside of the window.
    shapes
        Requests of which only lengths are known.
    bytes_read
        Stored bytes read.
    filtered_by
        Of the records filtered: how many for which reason.
    unread
        Requests that are errors because an image could not be had this time.
    images
        Digests of the images of its requests.
    """

    account: Account
    format: str
    failure: ReadFailure | None
    outside: int
    shapes: int
    bytes_read: int
    filtered_by: dict[str, int] = field(default_factory=dict)
    unread: int = 0
    images: frozenset[str] = frozenset()


class _Tally:
    """Adds up what becomes of an object."""

    def __init__(self) -> None:
        self.lines = 0
        self._reasons: Counter[str] = Counter()
        self._images: set[str] = set()
        self._sums = dict.fromkeys(
            ("blank", "filtered", "quarantined", "requests", "errors", "outside", "shapes", "unread"), 0
        )

    def add(self, lines: int, counts: Counts) -> None:
        self.lines += lines
        for name in self._sums:
            self._sums[name] += getattr(counts, name)
        self._reasons.update(counts.reasons)
        self._images |= counts.images

    def result(self, name: str, failure: ReadFailure | None, bytes_read: int) -> ParsedObject:
        sums = self._sums
        outside, shapes, unread = (sums.pop(name) for name in ("outside", "shapes", "unread"))
        account = Account(lines=self.lines, object_errors=int(failure is not None), **sums)
        reasons = dict(sorted(self._reasons.items()))
        images = frozenset(self._images)
        return ParsedObject(account, name, failure, outside, shapes, bytes_read, reasons, unread, images)


def parse_object(
    stream: Readable,
    place: Place,
    settings: ParseSettings,
    *,
    reader: Reader | None,
    max_line_bytes: int,
    rows: RowFiles,
    pool: ParsePool | None,
    scratch: Path,
    unknown: Callable[[str], None] | None = None,
) -> ParsedObject:
    """Parse an object.

    Parameters
    ----------
    stream : Readable
        Its stored bytes.
    place, settings
        Where the rows belong, and what decides on them.
    reader : Reader or None
        Its format; None lets the content decide.
    max_line_bytes : int
        Longer lines are quarantined.
    rows : RowFiles
        Gets the rows, unless a pool writes them.
    pool : ParsePool or None
        Processes to parse the blocks of a large JSONL object in; their files come after those of `rows`.
    scratch : Path
        Folder for a copy of an object that must be read out of order (Parquet).
    unknown : callable or None
        Is told what an object looks like that is of no known format.
    """
    text = TextStream(stream)
    found = sniff(text, max_line_bytes, reader)
    used = found.reader or DEFAULT
    if found.reader is None and found.kind != "parquet" and unknown is not None and text.head(1):
        unknown(looks_like(found, text))
    tally = _Tally()
    if found.kind == "jsonl":
        blocks = BlockReader(text, max_line_bytes)
        if pool is not None:
            for lines, counts in pool.parse(blocks, place, settings, used, max_line_bytes):
                tally.add(lines, counts)
        else:
            _parse_blocks(blocks, RecordParser(place, settings, used), max_line_bytes, rows, tally)
        return tally.result(used.name, blocks.failure, text.bytes_read)
    if found.kind == "parquet":
        path = scratch / "object.parquet"
        failure = _copy(text, path)
        name = used.name
        if failure is None:
            try:
                used, records = parquet_records(path, reader)
                name = used.name
                _parse_records(records, RecordParser(place, settings, used), rows, tally)
            except UNREADABLE as error:
                failure = ReadFailure(
                    text.bytes_read, 0, f"the Parquet file is damaged ({type(error).__name__})"
                )
        path.unlink(missing_ok=True)
        return tally.result(name, failure, text.bytes_read)
    source = line_records(found.kind, text, max_line_bytes)
    spans = found.kind in ("otlp", "otlp-document")
    found_records = joined(source.records) if spans else source.records
    _parse_records(found_records, RecordParser(place, settings, used), rows, tally)
    return tally.result(used.name, source.failure(), text.bytes_read)


def _parse_blocks(
    blocks: BlockReader, parser: RecordParser, max_line_bytes: int, rows: RowFiles, tally: _Tally
) -> None:
    repeats = RepeatCounter()
    for block in blocks:
        drafts = Drafts()
        parser.add_block(block, max_line_bytes, drafts)
        parser.settle(drafts, repeats.resolve(*drafts.digests()))
        rows.add(drafts)
        tally.add(block.lines, drafts.counts)


def _parse_records(records: Iterable[Item], parser: RecordParser, rows: RowFiles, tally: _Tally) -> None:
    repeats = RepeatCounter()
    drafts, held = Drafts(), 0

    def settle() -> None:
        parser.settle(drafts, repeats.resolve(*drafts.digests()))
        rows.add(drafts)
        tally.add(held, drafts.counts)

    try:
        for record, line in records:
            parser.add_record(record, line, drafts)
            held += 1
            if held == _RECORDS:
                settle()
                drafts, held = Drafts(), 0
    finally:
        # Records before the damage of a Parquet file count.
        settle()


def _copy(text: TextStream, path: Path) -> ReadFailure | None:
    with path.open("wb") as out:
        for piece in text:
            out.write(piece)
    return ReadFailure(text.bytes_read, 0, text.damage) if text.damage is not None else None
