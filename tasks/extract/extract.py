"""Extract: the complete object list of a date -> canonical rows, refused rows, quarantine, and their counts.

Large objects are parsed one by one, in blocks over all cores; small ones many at a time, fetched side by
side. Rows are kept in the store under `{job}/parsed/run_date=D/` by (uri, etag, size) and everything else
that decides what its records become, so a late file costs only its own parsing.
"""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from tasks.base.accounting import Account
from tasks.base.identity import digest
from tasks.base.schema import VERSIONS
from tasks.extract.input_digest import input_digest_of
from tasks.extract.parse.one_object import ParsedObject, parse_object
from tasks.extract.parse.pool import ParsePool
from tasks.extract.parse.record_parser import ParseSettings, Place
from tasks.extract.parse.row_files import TABLES, TableFiles
from tasks.extract.parsed_rows import Group, ParsedRows, files_of
from tasks.extract.readers.registry import READERS_VERSION
from tasks.extract.sources import open_source, reader_of
from tasks.extract.text.lines import ReadFailure
from tasks.requests.formats import AUTO
from tasks.requests.openai_batch import PARSER_VERSION
from tasks.requests.sampling import SamplingDefaults

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path
    from typing import BinaryIO

    from tasks.extract.parsed_rows import Name
    from tasks.extract.readers.contract import Reader
    from tasks.extract.sources import Source
    from tasks.store.contract import ObjectInfo, Store

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 16 << 20
POOL_BYTES: Final = 48 << 20
"""Objects of at least this size are parsed in several processes, which take about a second to start."""
SMALL_BYTES: Final = 1 << 20
"""Objects up to this size are fetched whole, and parsed many at a time."""
GROUP_OBJECTS: Final = 2000
GROUP_BYTES: Final = 64 << 20
FETCHES: Final = 16
"""Small objects that are fetched at a time; as many again may wait to be parsed."""
_SHOWN: Final = 3
_UNREADABLE: Final = ParsedObject(
    Account(object_errors=1), "none", ReadFailure(0, 0, "its key has a step '..'"), 0, 0, 0
)


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
    format
        Name of the format it was read by.
    outside
        Requests made outside of the date; filtered, unless the path of the source holds the date.
    shapes
        Requests of which only lengths are known.
    error
        What could not be read of it, if anything.
    reused
        Whether its rows came from an earlier parse.
    late
        Whether the date was read before without it.
    """

    source_uri: str
    etag: str
    size: int
    account: Account
    format: str
    outside: int
    shapes: int
    error: ObjectError | None
    reused: bool
    late: bool


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
        Objects listed whose names are of no kind that is read.
    """

    run_date: date
    objects: tuple[ExtractedObject, ...]
    account: Account
    input_digest: str
    ignored: int
    groups: tuple[Group, ...]

    def files(self, table: str) -> list[Path]:
        """Return the Parquet files of `requests`, `errors` or `quarantine`."""
        return files_of(self.groups, table)

    @property
    def object_errors(self) -> list[ObjectError]:
        """What could not be read."""
        return [found.error for found in self.objects if found.error is not None]

    @property
    def late(self) -> list[str]:
        """Objects that came after the date was read first."""
        return [found.source_uri for found in self.objects if found.late]

    @property
    def outside(self) -> int:
        """Requests made outside of the date."""
        return sum(found.outside for found in self.objects)

    @property
    def shapes(self) -> int:
        """Requests of which only lengths are known."""
        return sum(found.shapes for found in self.objects)


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
    format : str
        Name of a format of `tasks.extract.readers.registry`, for all objects; `auto` lets the content of each
        decide.
    columns : mapping
        For format `generic`: the fields of a request and their columns.
    window : (datetime, datetime) or None
        Requests made outside of it are counted, where the log says when they were made.
    window_filters : bool
        Whether they are filtered as well: they belong to another date.
    catalog : str or None
        URI of the Iceberg catalog of a table whose source names none.
    """

    defaults: SamplingDefaults = SamplingDefaults()  # noqa: RUF009 - it is frozen
    model_filter: tuple[str, ...] = ()
    max_line_bytes: int = MAX_LINE_BYTES
    format: str = AUTO
    columns: Mapping[str, str] = field(default_factory=dict)
    window: tuple[datetime, datetime] | None = None
    window_filters: bool = True
    catalog: str | None = None

    def digest(self) -> str:
        """Name these settings and the versions of the code that they steer."""
        return digest(
            "parsed",
            [PARSER_VERSION, READERS_VERSION, [VERSIONS[table] for table in TABLES]],
            [self.defaults.as_dict(), sorted(self.model_filter), self.max_line_bytes],
            [
                self.format,
                dict(self.columns),
                [moment.isoformat() for moment in self.window or ()],
                self.window_filters,
            ],
        )


def extract(
    source: str,
    *,
    job: str,
    run_date: date,
    scratch: Path,
    store: Store | None = None,
    settings: ExtractSettings | None = None,
    processes: int | None = None,
) -> ExtractResult:
    """Read all requests of a date.

    Parameters
    ----------
    source : str
        An object, a folder or a prefix, with `{run_date:%Y/%m/%d}` or plain. Objects are read whose names end
        in one of `tasks.extract.listing.SUFFIXES`. Or a table or query, see `tasks.extract.table_source`.
    job, run_date
        Where the rows belong.
    scratch : Path
        Local folder for the Parquet files.
    store : Store or None
        Where parsed rows are kept for the next run; None keeps nothing.
    settings : ExtractSettings or None
        None is `ExtractSettings()`.
    processes : int or None
        To parse large objects in; None takes one per core.

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
    source_store, found, ignored = open_source(
        source, run_date, store, job, scratch / "table", settings.catalog
    )
    reader = reader_of(source_store, settings.format, settings.columns)
    work = _Work(settings, reader, Place(job, run_date, ""), scratch, processes)
    named = {(source_store.object_uri(info.key), info.etag, info.size): info for info in found}
    kept = None
    groups: list[Group] = []
    seen: set[str] = set()
    if store is not None:
        place = f"{job}/parsed/run_date={run_date.isoformat()}"
        kept = ParsedRows(store, place, settings.digest())
        seen = kept.seen()
        groups = kept.find(named, scratch / "kept")
    before = {name for group in groups for name in group.objects}
    for group, whole in work.parse(source_store, {n: i for n, i in named.items() if n not in before}):
        groups.append(group)
        if kept is not None and whole:
            kept.keep(group)
    parsed = {name[0]: (name, result) for group in groups for name, result in group.objects.items()}
    objects = []
    for name in sorted(named):
        actual, result = parsed[name[0]]
        result.account.check(name[0])
        late = bool(seen) and name[0] not in seen
        objects.append(_extracted(actual, result, reused=actual in before, late=late))
    account = sum((found.account for found in objects), Account())
    files = [path for table in TABLES[:2] for path in files_of(groups, table)]
    scratch.mkdir(parents=True, exist_ok=True)
    inputs = input_digest_of(files, scratch)
    made = ExtractResult(run_date, tuple(objects), account, inputs, len(ignored), tuple(groups))
    _tell(made)
    return made


class _Work:
    """Parses objects."""

    def __init__(
        self,
        settings: ExtractSettings,
        reader: Reader | None,
        place: Place,
        scratch: Path,
        processes: int | None,
    ) -> None:
        self._reader = reader
        self._place, self._scratch = place, scratch
        self._limit = settings.max_line_bytes
        self._settings = ParseSettings(
            settings.defaults, settings.model_filter, settings.window, settings.window_filters
        )
        self._processes = processes
        self._groups = 0

    def parse(self, source: Source, named: Mapping[Name, ObjectInfo]) -> Iterator[tuple[Group, bool]]:
        """Yield groups, and whether each was read as it was listed, so that its rows can be kept."""
        climbing = [name for name in named if ".." in named[name].key.split("/")]
        if climbing:
            # A key is any text; a path made of this one could name something else.
            yield Group(dict.fromkeys(climbing, _UNREADABLE), {}), False
            named = {name: info for name, info in named.items() if name not in set(climbing)}
        small = [name for name in named if named[name].size <= SMALL_BYTES]
        with ExitStack() as stack:
            pool: ParsePool | None = None
            for name in named:
                size = named[name].size
                if size <= SMALL_BYTES:
                    continue
                if pool is None and size >= POOL_BYTES:
                    pool = stack.enter_context(
                        ParsePool(self._scratch / "blocks", self._limit, self._processes)
                    )
                with source.open_stream(named[name].key) as stream:
                    yield self._group([(name, stream)], pool if size >= POOL_BYTES else None)
            for names in _together(small):
                yield self._group(_fetched(source, names, named), None)

    def _group(self, streams: Iterable[tuple[Name, BinaryIO]], pool: ParsePool | None) -> tuple[Group, bool]:
        folder = self._scratch / f"{self._groups:05d}"
        folder.mkdir(parents=True)
        self._groups += 1
        objects: dict[Name, ParsedObject] = {}
        whole = True
        with TableFiles(folder) as rows:
            for name, stream in streams:
                parsed = parse_object(
                    stream,
                    Place(self._place.job, self._place.run_date, name[0]),
                    self._settings,
                    reader=self._reader,
                    max_line_bytes=self._limit,
                    rows=rows,
                    pool=pool,
                    scratch=folder,
                )
                objects[name] = parsed
                # Damage ends the reading early; otherwise what was listed is what was read.
                left = name[2] - parsed.bytes_read
                if left < 0 or (left and parsed.failure is None):
                    log.warning("%s was written to while it was read; its rows are not kept", name[0])
                    whole = False
                if parsed.failure is not None:
                    message = "%s: %s at byte %d"
                    log.warning(message, name[0], parsed.failure.message, parsed.failure.byte_offset)
        files = {table: [path] for table, path in rows.files.items()}
        for made in pool.take_files() if pool is not None else ():
            for table, path in made.items():
                files.setdefault(table, []).append(path)
        return Group(objects, files), whole


def _together(names: Sequence[Name]) -> Iterator[list[Name]]:
    """Yield small objects in groups of bounded number and size."""
    group: list[Name] = []
    size = 0
    for name in names:
        if group and (len(group) >= GROUP_OBJECTS or size + name[2] > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(name)
        size += name[2]
    if group:
        yield group


def _fetched(
    source: Source, names: Sequence[Name], named: Mapping[Name, ObjectInfo]
) -> Iterator[tuple[Name, BinaryIO]]:
    """Yield small objects in order, with the next ones on their way."""
    waiting = iter(names)
    with ThreadPoolExecutor(FETCHES) as pool:
        coming = [(name, pool.submit(source.get, named[name].key)) for name in islice(waiting, 2 * FETCHES)]
        while coming:
            name, data = coming.pop(0)
            yield name, io.BytesIO(data.result())
            coming += [(name, pool.submit(source.get, named[name].key)) for name in islice(waiting, 1)]


def _extracted(name: Name, parsed: ParsedObject, *, reused: bool, late: bool) -> ExtractedObject:
    error = None
    if parsed.failure is not None:
        failure = parsed.failure
        error = ObjectError(name[0], failure.byte_offset, failure.text_offset, failure.message)
    return ExtractedObject(
        *name,
        account=parsed.account,
        format=parsed.format,
        outside=parsed.outside,
        shapes=parsed.shapes,
        error=error,
        reused=reused,
        late=late,
    )


def _tell(made: ExtractResult) -> None:
    formats = sorted({found.format for found in made.objects})
    log.info(
        "%d objects (%d parsed before), %s, format %s",
        len(made.objects),
        sum(found.reused for found in made.objects),
        ", ".join(f"{count} {name}" for name, count in made.account.counts().items()),
        ", ".join(formats),
    )
    if made.late:
        shown = ", ".join(made.late[:_SHOWN]) + (", ..." if len(made.late) > _SHOWN else "")
        log.warning("%d objects came after this date was read first: %s", len(made.late), shown)
    if made.outside:
        log.warning("%d requests were made outside of %s", made.outside, made.run_date)
