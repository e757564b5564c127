"""Tells what logs are taken for, and what would become of their lines: nothing is run, nothing is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import pyarrow.parquet as pq

from tasks.base.errors import ConfigurationError
from tasks.base.run_date import day_window, is_dated
from tasks.extract.extract import MAX_LINE_BYTES, ExtractSettings, extract
from tasks.extract.parse.sniff import looks_like, parquet_look, sniff
from tasks.extract.readers.contract import is_name, unrecognised
from tasks.extract.readers.generic import parse_columns
from tasks.extract.readers.registry import READERS
from tasks.extract.sources import open_source
from tasks.extract.table_source import is_table
from tasks.extract.text.decompress import TextStream
from tasks.extract.text.parquet_rows import UNREADABLE
from tasks.requests.formats import AUTO, GENERIC

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from tasks.extract.result import ExtractedObject, ExtractResult
    from tasks.extract.sources import Source

Sureness: TypeAlias = Literal["sure", "likely", "unsure", "unknown", "given"]

LOOKED_AT: Final = 20
"""Objects that are told one by one."""
_REASONS: Final = 10
_FIELDS: Final = 30


@dataclass(frozen=True, slots=True)
class Look:
    """What one object is taken for.

    Attributes
    ----------
    uri
        The object.
    format, title
        Name and title of the format that it is read by.
    how_sure
        `sure` if all records that were looked at are of this format and of no other, `likely` if most are,
        `unsure` if fewer are, `unknown` if none is of any format, `given` if the format was named.
    made_of
        How its records are found: `jsonl`, `document`, `wrapped`, `frame`, `otlp`, `otlp-document`, `traces`,
        `csv`, `parquet`, `table`.
    looked_at, alike
        Records at its beginning, and how many of them are of the format.
    also
        Other formats that a record at its beginning could be of.
    fields
        Names of the first record's fields.
    remark
        Why no format was found; '' where one was.
    lines, requests, lengths_only, errors, filtered, quarantined
        What becomes of its records; `requests` includes `lengths_only` (no text to answer) and `errors`.
    unreadable
        Why its end cannot be read; None if it can.
    """

    uri: str
    format: str
    title: str
    how_sure: Sureness
    made_of: str
    looked_at: int
    alike: int
    also: tuple[str, ...]
    fields: tuple[str, ...]
    remark: str
    lines: int
    requests: int
    lengths_only: int
    errors: int
    filtered: int
    quarantined: int
    unreadable: str | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why records are no answerable requests; `first` is the first of them, `OBJECT:LINE`."""

    becomes: Literal["error", "quarantine", "filtered"]
    code: str
    field: str | None
    message: str
    count: int
    first: str | None


@dataclass(frozen=True, slots=True)
class Examination:
    """What logs are taken for.

    Attributes
    ----------
    objects
        Up to `LOOKED_AT` of them.
    of
        How many there are.
    account
        Sums over all: `lines, blank, filtered, quarantined, requests, errors, object_errors`.
    answerable
        Requests that a run would answer.
    lengths_only
        Requests of which only lengths are known.
    reasons
        The most frequent ones.
    first_time, last_time
        When requests were made, in ISO 8601; None where no record tells.
    without_time
        Requests that do not tell.
    """

    objects: tuple[Look, ...]
    of: int
    account: dict[str, int]
    answerable: int
    lengths_only: int
    reasons: tuple[Reason, ...]
    first_time: str | None
    last_time: str | None
    without_time: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def known_formats() -> list[dict[str, str]]:
    """Return name and title of every format that is told by content."""
    return [{"name": name, "title": reader.title} for name, reader in READERS.items()]


def examine(
    source: str,
    *,
    run_date: date | None = None,
    timezone: str = "UTC",
    name: str = AUTO,
    columns: Sequence[str] = (),
    catalog: str | None = None,
) -> Examination:
    """Read logs as a night would, and tell what they are taken for. Nothing of a prompt is in it.

    Parameters
    ----------
    source
        A file, a folder, an `s3://` prefix, a table or a query.
    run_date, timezone
        The day whose requests are wanted, as of a run; None takes those of every day.
    name, columns
        As `--format` and `--columns` of a run, the latter as they were typed.
    catalog
        Of an Iceberg table whose URI names none.

    Raises
    ------
    ConfigurationError
        If there is nothing, or it cannot be read, or format or columns are of no use, or the source holds a
        date and none is given.
    """
    if run_date is None and is_dated(source):
        raise ConfigurationError("--run-date", f"is needed: {source} holds a date", "Give it as 2026-11-22")
    day = run_date or datetime.now(UTC).date()
    settings = ExtractSettings(
        format=name,
        columns=parse_columns(columns),
        window=None if run_date is None else day_window(run_date, timezone),
        window_filters=not is_dated(source),
        catalog=catalog,
    )
    with TemporaryDirectory(prefix="nightblend-formats-") as folder:
        scratch = Path(folder)
        made = extract(source, job="formats", run_date=day, scratch=scratch / "rows", settings=settings)
        looks = _looks(source, made, settings, scratch)
        first, last, without = _times(made)
        account = made.account
        return Examination(
            objects=looks,
            of=len(made.objects),
            account=account.counts() | {"object_errors": account.object_errors},
            answerable=account.requests - account.errors - made.shapes,
            lengths_only=made.shapes,
            reasons=_reasons(made),
            first_time=first,
            last_time=last,
            without_time=without,
        )


def _looks(source: str, made: ExtractResult, settings: ExtractSettings, scratch: Path) -> tuple[Look, ...]:
    shown = made.objects[:LOOKED_AT]
    if is_table(source):
        return tuple(_look(found, _Sample("table", [], "")) for found in shown)
    store, infos, _ = open_source(source, made.run_date, None, "formats", scratch, None)
    keys = {store.object_uri(info.key): info.key for info in infos}
    given = settings.format != AUTO or bool(settings.columns)
    looks = []
    for found in shown:
        sample = _sample(store, keys[found.source_uri], scratch)
        looks.append(_look(found, sample, given=given))
    return tuple(looks)


@dataclass(frozen=True, slots=True)
class _Sample:
    made_of: str
    records: list[dict[str, Any]]
    remark: str


def _sample(store: Source, key: str, scratch: Path) -> _Sample:
    """Look at the beginning of an object."""
    with store.open_stream(key) as stream:
        text = TextStream(stream)
        found = sniff(text, MAX_LINE_BYTES, None)
        if found.kind != "parquet":
            remark = "" if found.reader is not None else looks_like(found, text)
            return _Sample(found.kind, found.records, remark)
        path = scratch / "object.parquet"
        with path.open("wb") as out:
            for piece in text:
                out.write(piece)
    try:
        return _Sample("parquet", parquet_look(path), "")
    except UNREADABLE:
        return _Sample("parquet", [], "the Parquet file is damaged")


def _look(found: ExtractedObject, sample: _Sample, *, given: bool = True) -> Look:
    records = sample.records
    reader = READERS.get(found.format)
    alike = sum(reader.matches(record) for record in records) if reader is not None else 0
    likely = {name for record in records for name, other in READERS.items() if other.matches(record)}
    also = tuple(name for name in READERS if name in likely - {found.format})
    how_sure: Sureness = "given" if given or found.format == GENERIC else _how_sure(alike, len(records), also)
    remark = sample.remark
    if how_sure == "unknown" and records and not remark:
        remark = unrecognised(records[0])
    account = found.account
    return Look(
        uri=found.source_uri,
        format=found.format,
        title=reader.title if reader is not None else "Rows of any table",
        how_sure=how_sure,
        made_of=sample.made_of,
        looked_at=len(records),
        alike=alike,
        also=also,
        fields=tuple(filter(is_name, records[0]))[:_FIELDS] if records else (),
        remark=remark if how_sure == "unknown" else "",
        lines=account.lines,
        requests=account.requests,
        lengths_only=found.shapes,
        errors=account.errors,
        filtered=account.filtered,
        quarantined=account.quarantined,
        unreadable=found.error.message if found.error is not None else None,
    )


def _how_sure(alike: int, looked_at: int, also: tuple[str, ...]) -> Sureness:
    if not alike:
        return "unknown"
    if alike == looked_at and not also:
        return "sure"
    return "likely" if 2 * alike > looked_at else "unsure"


def _reasons(made: ExtractResult) -> tuple[Reason, ...]:
    counts: Counter[tuple[str, str, str | None, str]] = Counter()
    first: dict[tuple[str, str, str | None, str], str] = {}
    columns = ["source_uri", "source_line", "code", "field", "message"]
    for table, becomes in (("errors", "error"), ("quarantine", "quarantine")):
        for path in made.files(table):
            for batch in pq.ParquetFile(path).iter_batches(columns=columns):
                for row in batch.to_pylist():
                    key = (becomes, row["code"], row["field"], row["message"])
                    counts[key] += 1
                    first.setdefault(key, f"{row['source_uri']}:{row['source_line']}")
    reasons = [Reason(*key, count, first[key]) for key, count in counts.most_common(_REASONS)]  # type: ignore[arg-type]
    reasons += [Reason("filtered", "filtered", None, why, n, None) for why, n in made.filtered_by.items()]
    return tuple(reasons)


def _times(made: ExtractResult) -> tuple[str | None, str | None, int]:
    """Return first and last time of the requests, and how many do not tell."""
    first: datetime | None = None
    last: datetime | None = None
    without = 0
    for path in made.files("requests"):
        for batch in pq.ParquetFile(path).iter_batches(columns=["event_time"]):
            column = batch.column(0)
            without += column.null_count
            times = [at for at in column.to_pylist() if at is not None]
            if times:
                first = min(times) if first is None else min(first, *times)
                last = max(times) if last is None else max(last, *times)
    told = [None if at is None else at.isoformat() for at in (first, last)]
    return told[0], told[1], without
