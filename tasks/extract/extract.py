"""Extract: the complete object list of a date -> canonical rows, refused rows, quarantine, and their counts.

Large objects are parsed one by one, in blocks over all cores; small ones many at a time, fetched side by
side. Rows are kept in the store under `{job}/parsed/run_date=D/` by (uri, etag, size) and everything else
that decides what its records become, so a late file costs only its own parsing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tasks.base.accounting import Account
from tasks.base.identity import digest
from tasks.base.progress import tell
from tasks.base.run_date import expand_source
from tasks.base.schema import VERSIONS
from tasks.extract.group_parser import GroupParser
from tasks.extract.input_digest import input_digest_of
from tasks.extract.listing import SUFFIXES
from tasks.extract.parse.image_files import ImageSettings, folder_of
from tasks.extract.parse.record_parser import PARSER_VERSION, ParseSettings, Place
from tasks.extract.parse.row_files import TABLES
from tasks.extract.parsed_rows import ParsedRows, files_of
from tasks.extract.readers.registry import READERS_VERSION
from tasks.extract.result import ExtractedObject, ExtractResult, ObjectError
from tasks.extract.sources import open_source, reader_of
from tasks.extract.table_source import is_table
from tasks.requests.adapters import NONE, Adapters
from tasks.requests.formats import AUTO
from tasks.requests.sampling import SamplingDefaults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime
    from pathlib import Path

    from tasks.extract.parse.one_object import ParsedObject
    from tasks.extract.parsed_rows import Group, Name
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 16 << 20
_SHOWN: Final = 3


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
    image_sources : tuple of str
        Where images may be read beside the folder of the logs: folders, `s3://BUCKET/PREFIX/`,
        `https://HOST/PATH/`.
    adapters : Adapters
        Adapters of the model that the field `model` of a request may name.
    """

    defaults: SamplingDefaults = SamplingDefaults()  # noqa: RUF009 - it is frozen
    model_filter: tuple[str, ...] = ()
    max_line_bytes: int = MAX_LINE_BYTES
    format: str = AUTO
    columns: Mapping[str, str] = field(default_factory=dict)
    window: tuple[datetime, datetime] | None = None
    window_filters: bool = True
    catalog: str | None = None
    image_sources: tuple[str, ...] = ()
    adapters: Adapters = NONE

    def digest(self) -> str:
        """Name these settings and the versions of the code that they steer."""
        adapters = self.adapters
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
            *([sorted(self.image_sources)] if self.image_sources else []),
            # Without adapters they are named as before there were any.
            *([[dict(adapters.identities), list(adapters.base)]] if adapters.identities else []),
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
    wanted = ParseSettings(
        settings.defaults,
        settings.model_filter,
        settings.window,
        settings.window_filters,
        ImageSettings(scratch / "images", image_places(source, run_date, settings.image_sources)),
        settings.adapters,
    )
    place = Place(job, run_date, "")
    parser = GroupParser(wanted, settings.max_line_bytes, reader, place, scratch, processes)
    named = {(source_store.object_uri(info.key), info.etag, info.size): info for info in found}
    kept = None
    groups: list[Group] = []
    seen: set[str] = set()
    if store is not None:
        folder = f"{job}/parsed/run_date={run_date.isoformat()}"
        kept = ParsedRows(store, folder, settings.digest())
        seen = kept.seen()
        groups = kept.find(named, scratch / "kept")
    before = {name for group in groups for name in group.objects}
    total = sum(size for _, _, size in named)
    read = sum(size for _, _, size in before)
    for group, whole in parser.parse(source_store, {n: i for n, i in named.items() if n not in before}):
        groups.append(group)
        if kept is not None and whole:
            kept.keep(group)
        read += sum(size for _, _, size in group.objects)
        tell(read, total, "bytes")
    # Large objects are parsed first, kept ones are there before: the order of rows must not tell which.
    groups.sort(key=lambda group: min(group.objects))
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


def image_places(source: str, run_date: date, named: Iterable[str]) -> tuple[str, ...]:
    """Return where the images of a source may be read: below its own folder, and where a person says.

    Raises
    ------
    ConfigurationError
        Naming `--image-source`, if one is no place.
    """
    own = []
    if not is_table(source):
        whole = expand_source(source, run_date)
        below = whole.rpartition("/")[0] or "." if whole.lower().endswith(SUFFIXES) else whole
        own = [folder_of(below)]
    return (*own, *(folder_of(place) for place in named))


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
        filtered_by=parsed.filtered_by,
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
    if made.filtered_by:
        told = [f"{count} {reason}" for reason, count in made.filtered_by.items()]
        log.info("filtered: %s", ", ".join(told[:_SHOWN]) + (", ..." if len(told) > _SHOWN else ""))
    if made.late:
        shown = ", ".join(made.late[:_SHOWN]) + (", ..." if len(made.late) > _SHOWN else "")
        log.warning("%d objects came after this date was read first: %s", len(made.late), shown)
    if made.outside:
        log.warning("%d requests were made outside of %s", made.outside, made.run_date)
