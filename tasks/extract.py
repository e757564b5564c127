"""Extract: the complete object list of a date -> canonical rows, refused rows, quarantine, and their counts.

Each object becomes at most three Parquet files (`requests`, `errors`, `quarantine`). The files and counts of
an object are kept in the store under `{job}/parsed/run_date=D/` by (uri, etag, size) and everything else that
decides what its lines become, so a late file costs only its own parsing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.accounting import Account
from tasks.errors import ConfigurationError
from tasks.identity import digest, input_digest
from tasks.lines import LineReader, ReadFailure
from tasks.openai_batch import PARSER_VERSION, ObjectParser, Outcome
from tasks.run_date import expand_source, is_dated, static_prefix
from tasks.sampling import SamplingDefaults
from tasks.schema import SCHEMAS, VERSIONS
from tasks.storage import ObjectNotFoundError, list_source, split_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from tasks.storage import ObjectInfo, Store

log = logging.getLogger(__name__)

SUFFIXES: Final = (".jsonl", ".jsonl.gz")
MAX_LINE_BYTES: Final = 16 << 20
FLUSH_ROWS: Final = 4096
FLUSH_BYTES: Final = 32 << 20
TABLES: Final = ("requests", "errors", "quarantine")
_TABLE_OF: Final = {
    Outcome.REQUEST: "requests",
    Outcome.ERROR: "errors",
    Outcome.QUARANTINED: "quarantine",
}
_SHOWN: Final = 3
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class ObjectError:
    """A part of an object that could not be read: from `byte_offset` of the object as it is stored.

    `text_offset` is where its last whole line ends in the uncompressed text.
    """

    source_uri: str
    byte_offset: int
    text_offset: int
    message: str


@dataclass(frozen=True, slots=True)
class ExtractedObject:
    """One object, parsed.

    Attributes
    ----------
    source_uri, etag, size
        The object as it was listed.
    account
        Its counts; the equation holds.
    files
        Local Parquet file of each table that has rows.
    error
        What could not be read of it, if anything.
    reused
        Whether its rows came from an earlier parse.
    """

    source_uri: str
    etag: str
    size: int
    account: Account
    files: dict[str, Path]
    error: ObjectError | None
    reused: bool


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """The input of a run: all objects of its date, sorted by key.

    Attributes
    ----------
    account
        Sum over the objects.
    input_digest
        Over all requests, those refused while parsing included.
    ignored
        Objects listed that are neither `.jsonl` nor `.jsonl.gz`.
    """

    run_date: date
    objects: tuple[ExtractedObject, ...]
    account: Account
    input_digest: str
    ignored: int

    def files(self, table: str) -> list[Path]:
        """Return the Parquet files of `requests`, `errors` or `quarantine`, in the order of the objects."""
        return [found.files[table] for found in self.objects if table in found.files]

    @property
    def object_errors(self) -> list[ObjectError]:
        """What could not be read."""
        return [found.error for found in self.objects if found.error is not None]


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """What decides, beside an object's content, which rows come out of it.

    Parameters
    ----------
    defaults : SamplingDefaults
        The run's defaults; part of every answer key.
    model_filter : tuple of str
        Patterns of requested models; other requests count as filtered. Empty: no filter.
    max_line_bytes : int
        Longer lines are quarantined.
    """

    defaults: SamplingDefaults = SamplingDefaults()  # noqa: RUF009 - it is frozen
    model_filter: tuple[str, ...] = ()
    max_line_bytes: int = MAX_LINE_BYTES


def extract(
    source: str,
    *,
    job: str,
    run_date: date,
    scratch: Path,
    store: Store | None = None,
    settings: ExtractSettings | None = None,
) -> ExtractResult:
    """Read all requests of a date.

    Parameters
    ----------
    source : str
        An object, a folder or a prefix, with `{run_date:%Y/%m/%d}` or plain. Objects that end in `.jsonl` or
        `.jsonl.gz` are read.
    job, run_date
        Where the rows belong.
    scratch : Path
        Local folder for the Parquet files.
    store : Store or None
        Where parsed rows are kept for the next run; None keeps nothing.
    settings : ExtractSettings or None
        None is `ExtractSettings()`.

    Returns
    -------
    ExtractResult
        Objects without a single request make a valid, empty result.

    Raises
    ------
    ConfigurationError
        If the date has no object at all, or the source cannot be read.
    AccountingError
        If lines were lost.
    """
    settings = settings or ExtractSettings()
    source_store, found, ignored = _list(source, run_date, store, job)
    objects = []
    for number, info in enumerate(found):
        folder = scratch / f"{number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        work = _ObjectWork(source_store, info, job, run_date, settings, folder)
        parsed = work.reuse(store) or work.parse(store)
        parsed.account.check(parsed.source_uri)
        objects.append(parsed)
    account = sum((parsed.account for parsed in objects), Account())
    files = [parsed.files[table] for parsed in objects for table in TABLES[:2] if table in parsed.files]
    log.info(
        "%d objects (%d parsed before), %s",
        len(objects),
        sum(parsed.reused for parsed in objects),
        ", ".join(f"{count} {name}" for name, count in account.counts().items()),
    )
    return ExtractResult(run_date, tuple(objects), account, input_digest(_pairs(files)), len(ignored))


class _ObjectWork:
    """One object on its way through extract."""

    def __init__(
        self,
        source: Store,
        info: ObjectInfo,
        job: str,
        run_date: date,
        settings: ExtractSettings,
        folder: Path,
    ) -> None:
        self._source, self._info, self._folder = source, info, folder
        self._uri = source.object_uri(info.key)
        self._settings = settings
        self._parser = ObjectParser(job, run_date, self._uri, settings.defaults, settings.model_filter)
        key = digest(
            "parsed",
            PARSER_VERSION,
            [VERSIONS[table] for table in TABLES],
            [job, run_date.isoformat(), self._uri, info.etag, info.size],
            [settings.defaults.as_dict(), sorted(settings.model_filter), settings.max_line_bytes],
        )
        self._kept = f"{job}/parsed/run_date={run_date.isoformat()}/{key[:32]}"

    def parse(self, store: Store | None) -> ExtractedObject:
        """Parse the object, and keep its rows in the store."""
        counts = dict.fromkeys(Outcome, 0)
        with self._source.open_stream(self._info.key) as stream, _TableWriters(self._folder) as writers:
            compressed = self._info.key.endswith(".gz")
            lines = LineReader(stream, compressed=compressed, max_line_bytes=self._settings.max_line_bytes)
            total = 0
            for line in lines:
                total += 1
                outcome, row = self._parser.parse(line)
                counts[outcome] += 1
                if row is not None:
                    writers.add(_TABLE_OF[outcome], row, line.length)
        account = Account(
            lines=total,
            blank=counts[Outcome.BLANK],
            filtered=counts[Outcome.FILTERED],
            quarantined=counts[Outcome.QUARANTINED],
            requests=counts[Outcome.REQUEST] + counts[Outcome.ERROR],
            errors=counts[Outcome.ERROR],
            object_errors=int(lines.failure is not None),
        )
        if lines.failure is not None:
            message = "%s: %s at byte %d"
            log.warning(message, self._uri, lines.failure.message, lines.failure.byte_offset)
        # Damage ends the reading early; otherwise what was listed is what was read.
        left = self._info.size - lines.bytes_read
        unchanged = left == 0 or (left > 0 and lines.failure is not None)
        if not unchanged:
            log.warning("%s was written to while it was read; its rows are not kept", self._uri)
        if store is not None and unchanged:
            self._keep(store, account, writers.files, lines.failure)
        return self._result(account, writers.files, lines.failure, reused=False)

    def reuse(self, store: Store | None) -> ExtractedObject | None:
        """Fetch the rows of an earlier parse; None if there are none, or not whole."""
        if store is None:
            return None
        try:
            record = json.loads(store.get(f"{self._kept}/account.json"))
            files = {}
            for table, sha256 in record["files"].items():
                path = self._folder / f"{table}.parquet"
                store.get_file(f"{self._kept}/{table}.parquet", path)
                if _sha256(path) != sha256:
                    return None
                files[table] = path
            failure = ReadFailure(**record["failure"]) if record["failure"] else None
            return self._result(Account(**record["account"]), files, failure, reused=True)
        except (ObjectNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _keep(
        self, store: Store, account: Account, files: dict[str, Path], failure: ReadFailure | None
    ) -> None:
        for table, path in files.items():
            store.put_file(f"{self._kept}/{table}.parquet", path)
        record: dict[str, Any] = {
            "account": account.counts(),
            "files": {table: _sha256(path) for table, path in files.items()},
            "failure": asdict(failure) if failure else None,
        }
        # Last: rows without this record are not found.
        store.put(f"{self._kept}/account.json", json.dumps(record, sort_keys=True).encode())

    def _result(
        self, account: Account, files: dict[str, Path], failure: ReadFailure | None, *, reused: bool
    ) -> ExtractedObject:
        error = None
        if failure is not None:
            error = ObjectError(self._uri, failure.byte_offset, failure.text_offset, failure.message)
        return ExtractedObject(
            self._uri, self._info.etag, self._info.size, account, files, error, reused=reused
        )


class _TableWriters:
    """Rows to one Parquet file per table, in bounded memory; a table without rows has no file."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        self._folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self._bytes = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._flush()

    def add(self, table: str, row: dict[str, Any], size: int) -> None:
        self._rows[table].append(row)
        self._bytes += size
        if self._bytes >= FLUSH_BYTES or len(self._rows[table]) >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        for table, rows in self._rows.items():
            if not rows:
                continue
            if table not in self._writers:
                self.files[table] = self._folder / f"{table}.parquet"
                writer = pq.ParquetWriter(self.files[table], SCHEMAS[table], compression="zstd")
                self._writers[table] = self._stack.enter_context(writer)
            self._writers[table].write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[table]))
            rows.clear()
        self._bytes = 0


def _list(
    source: str, run_date: date, store: Store | None, job: str
) -> tuple[Store, list[ObjectInfo], list[str]]:
    expanded = expand_source(source, run_date)
    try:
        source_store, prefix = split_source(expanded, field="--source")
    except ConfigurationError:
        # A dated folder that is not there is a date without objects, if there are others.
        if is_dated(source):
            raise _nothing_found(source, expanded, run_date, []) from None
        raise
    own = f"{store.object_uri(job)}/" if store is not None else None
    found: list[ObjectInfo] = []
    ignored: list[str] = []
    for info in list_source(source_store, prefix):
        if own is not None and source_store.object_uri(info.key).startswith(own):
            # The store lies inside the source: what this job wrote is not its input.
            continue
        if info.key.endswith(SUFFIXES):
            found.append(info)
        elif not info.key.endswith("/"):
            ignored.append(info.key)
    if not found:
        raise _nothing_found(source, expanded, run_date, ignored)
    return source_store, sorted(found, key=lambda info: info.key), ignored


def _nothing_found(source: str, expanded: str, run_date: date, ignored: Sequence[str]) -> ConfigurationError:
    message = f"no .jsonl or .jsonl.gz objects under {expanded} for --run-date {run_date.isoformat()}"
    if ignored:
        message += f" ({len(ignored)} others, such as {', '.join(ignored[:_SHOWN])})"
    if is_dated(source):
        message += _neighbours(static_prefix(source))
        return ConfigurationError(
            "--source", message, "Give a --run-date that has objects, or correct --source"
        )
    return ConfigurationError(
        "--source", message, "Name the object, folder or prefix that holds the requests"
    )


def _neighbours(prefix: str) -> str:
    """Say what there is of other dates, looking at a bounded number of objects."""
    folder = prefix.rpartition("/")[0] + "/" if "/" in prefix else "."
    source_store, start = split_source(folder, field="--source")
    page = islice(source_store.list(start), _PAGE)
    keys = [info.key for info in page if info.key.endswith(SUFFIXES)]
    return f"; {folder} holds {', '.join(keys[:_SHOWN]) or 'none'}{', ...' if len(keys) > _SHOWN else ''}"


def _pairs(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["request_id", "answer_key"]):
                keys = batch.to_pydict()
                yield from zip(keys["request_id"], keys["answer_key"], strict=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
