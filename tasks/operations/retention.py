"""What a job may lose: run directories, parsed rows and publications that nobody needs, by age.

The publication that a date's log points to is never among them, nor the run that made it, nor one that a
state of the tables still needs. Age is the time since anything below a folder was written, so a run that goes
on (it writes a heartbeat) is never old; of a publication, since its date's log was written, which is when
another one replaced it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ConfigurationError
from tasks.runlog.log import RunLog
from tasks.runlog.places import date_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.store.contract import ObjectInfo, Store

_LEAST_DAYS: Final = 1.0
_MOST_DAYS: Final = 36_500.0
_PLACE: Final = re.compile(
    r"(?P<kind>runs|published|dates)/run_date=(?P<date>[0-9-]{10})/(?P<name>[^/]+)/"
    r"|(?P<parsed>parsed)/run_date=(?P<day>[0-9-]{10})/(?P<group>[^/]+/[^/]+)/"
)
_TABLE_FILE: Final = re.compile(r"/published/run_date=(?P<date>[0-9-]{10})/(?P<name>[^/]+)/")


@dataclass(frozen=True, slots=True)
class Retention:
    """Days that each class of artefacts is kept; None keeps it for ever.

    Attributes
    ----------
    runs
        Run directories: logs, parts, plans. Those of publications that are current are kept in any case.
    parsed
        Parsed rows of source objects: an old date that is run again parses them again.
    publications
        Result files that are not current: a date cannot be rolled back to them afterwards.
    snapshots
        Earlier states of the tables, see `tasks.warehouse.maintenance`.
    """

    runs: float | None = 90.0
    parsed: float | None = 30.0
    publications: float | None = 90.0
    snapshots: float | None = 30.0

    def check(self) -> None:
        """Refuse what would delete too much.

        Raises
        ------
        ConfigurationError
            If a class is kept for less than a day, or publications shorter than the snapshots that need them.
        """
        for name in ("runs", "parsed", "publications", "snapshots"):
            days = getattr(self, name)
            if days is not None and days < _LEAST_DAYS:
                raise ConfigurationError(
                    f"--{name}-days",
                    f"{days:g} is too little",
                    "Give at least 1; leave a day to running nights",
                )
            # Nor a number that is none.
            if days is not None and not days <= _MOST_DAYS:
                raise ConfigurationError(
                    f"--{name}-days", f"{days:g} is no number of days", "Give `all` to keep them for ever"
                )
        if self.publications is not None and (self.snapshots or float("inf")) > self.publications:
            raise ConfigurationError(
                "--publications-days",
                "is less than --snapshots-days: earlier states of the tables need these files",
                "Keep publications at least as long as snapshots",
            )


@dataclass(frozen=True, slots=True)
class Garbage:
    """A folder that may go.

    Attributes
    ----------
    kind
        runs, parsed or publications.
    run_date, name
        Which date, and the run's key, the publication's id or the group of parsed rows.
    keys
        Of its objects, in the order in which they are deleted.
    size
        Bytes.
    newest
        When anything in it was written last; a publication was current until then.
    """

    kind: str
    run_date: str
    name: str
    keys: tuple[str, ...]
    size: int
    newest: datetime


def find_garbage(store: Store, job: str, retention: Retention, now: datetime | None = None) -> list[Garbage]:
    """Return what is older than `retention` allows, by kind, date and name.

    Parameters
    ----------
    now
        Aware; None is the present.

    Raises
    ------
    ConfigurationError
        As `Retention.check`.
    """
    retention.check()
    moment = now or datetime.now(UTC)
    folders: dict[tuple[str, str, str], list[ObjectInfo]] = {}
    for info in store.list(f"{job}/"):
        place = _PLACE.match(info.key, len(job) + 1)
        if place is not None:
            found = (place["kind"], place["date"], place["name"])
            key = found if place["kind"] else ("parsed", place["day"], place["group"])
            folders.setdefault(key, []).append(info)
    needed = _needed(store, job, {date for kind, date, _ in folders if kind in {"runs", "published"}})
    written = {place: max(info.last_modified for info in objects) for place, objects in folders.items()}
    garbage = []
    for (kind, date, name), objects in sorted(folders.items()):
        if kind == "dates":
            continue
        days = {"runs": retention.runs, "parsed": retention.parsed, "published": retention.publications}[kind]
        newest = written[kind, date, name]
        if kind == "published":
            # Its date's log was last written when another one took its place.
            newest = max(newest, written.get(("dates", date, "log"), newest))
        if days is None or newest > moment - timedelta(days=days) or name in needed.get(date, ()):
            continue
        said = "publications" if kind == "published" else kind
        size = sum(info.size for info in objects)
        garbage.append(Garbage(said, date, name, _in_order(objects), size, newest))
    return garbage


def _needed(store: Store, job: str, dates: Iterable[str]) -> dict[str, set[str]]:
    """Return for each date the id of its current publication and the key of the run that made it."""
    found = {}
    for date in dates:
        current = current_publication(RunLog(store, date_prefix(job, date)).refresh())
        if current is not None:
            found[date] = {current.publication_id, current.run_key}
    return found


def _in_order(objects: list[ObjectInfo]) -> tuple[str, ...]:
    """Return the keys of a log from its end, then the rest: a log never names what is gone."""
    log = [info.key for info in objects if "/log/" in info.key]
    return (*sorted(log, reverse=True), *(info.key for info in objects if "/log/" not in info.key))


def clean_up(
    store: Store,
    job: str,
    retention: Retention,
    *,
    catalog: str | None,
    dry_run: bool,
    now: datetime | None = None,
) -> tuple[list[Garbage], list[dict[str, Any]]]:
    """Expire snapshots and delete what is older than `retention` allows; interrupted, it can be repeated.

    Parameters
    ----------
    catalog
        URI of the Iceberg catalog; None leaves tables alone.
    dry_run
        Say what would go, and change nothing.

    Returns
    -------
    (list of Garbage, list of dict)
        The folders that went, or would go, and what was done to each table
        (`tasks.warehouse.maintenance.maintain_tables`).

    Raises
    ------
    ConfigurationError
        As `Retention.check`.
    """
    garbage = find_garbage(store, job, retention, now)
    tables: list[dict[str, Any]] = []
    used: set[str] = set()
    # Snapshots first: no state of a table that can still be asked for needs the files that go then.
    if catalog is not None:
        # pyiceberg is slow to import.
        from tasks.warehouse.catalogs import catalog_errors
        from tasks.warehouse.maintenance import files_in_use, maintain_tables
        from tasks.warehouse.replace import open_warehouse

        with catalog_errors(catalog):
            opened = open_warehouse(catalog, store.uri)
            if retention.snapshots is not None:
                tables = maintain_tables(opened, keep_days=retention.snapshots, now=now, dry_run=dry_run)
            used = files_in_use(opened, keep_days=retention.snapshots, now=now)
    garbage = _not_in_tables(store, job, garbage, catalog, used)
    if dry_run:
        return garbage, tables
    deleted = []
    for found in garbage:
        if _is_as_found(store, job, found):
            for key in found.keys:
                store.delete(key)
            deleted.append(found)
    return deleted, tables


def _not_in_tables(
    store: Store, job: str, garbage: list[Garbage], catalog: str | None, used: set[str]
) -> list[Garbage]:
    """Return what no state of the tables needs, as far as can be known: files of another catalog stay."""
    needed = {(place["date"], place["name"]) for file in used if (place := _TABLE_FILE.search(file))}
    foreign: dict[str, set[str]] = {}
    for date in {found.run_date for found in garbage if found.kind == "publications"}:
        known = RunLog(store, date_prefix(job, date)).refresh().publications
        foreign[date] = {
            entry.publication_id
            for entry in known
            if entry.details.get("tables") and entry.details.get("catalog") != catalog
        }
    return [
        found
        for found in garbage
        if found.kind != "publications"
        or ((found.run_date, found.name) not in needed and found.name not in foreign[found.run_date])
    ]


def _is_as_found(store: Store, job: str, found: Garbage) -> bool:
    """Tell whether nobody has written to a folder since it was found, nor gone back to its publication."""
    kind = "published" if found.kind == "publications" else found.kind
    here = store.list(f"{job}/{kind}/run_date={found.run_date}/{found.name}/")
    if any(info.last_modified > found.newest for info in here):
        return False
    return found.kind == "parsed" or found.name not in _needed(store, job, [found.run_date]).get(
        found.run_date, ()
    )
