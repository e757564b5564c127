"""What a job may lose: run directories, parsed rows and publications that nobody needs, by age.

The publication that a date's log points to is never among them, nor the run that made it. Age is the time
since anything below a folder was written, so a run that goes on (it writes a heartbeat) is never old.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tasks.errors import ConfigurationError
from tasks.runlog import RunLog, date_prefix
from tasks.runstate import current_publication

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.storage import ObjectInfo, Store

_LEAST_DAYS: Final = 1.0
_PLACE: Final = re.compile(
    r"(?P<kind>runs|published)/run_date=(?P<date>[0-9-]{10})/(?P<name>[^/]+)/"
    r"|(?P<parsed>parsed)/run_date=(?P<day>[0-9-]{10})/(?P<group>[^/]+/[^/]+)/"
)


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
        Earlier states of the tables, see `tasks.maintenance`.
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
        When anything in it was written last.
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
    needed = _needed(store, job, {date for kind, date, _ in folders if kind != "parsed"})
    garbage = []
    for (kind, date, name), objects in sorted(folders.items()):
        days = {"runs": retention.runs, "parsed": retention.parsed, "published": retention.publications}[kind]
        newest = max(info.last_modified for info in objects)
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
        The folders, and what was done to each table (`tasks.maintenance.maintain_tables`).

    Raises
    ------
    ConfigurationError
        As `Retention.check`.
    """
    garbage = find_garbage(store, job, retention, now)
    tables: list[dict[str, Any]] = []
    # Snapshots first: no state of a table that can still be asked for needs the files that go then.
    if catalog is not None and retention.snapshots is not None:
        # pyiceberg is slow to import.
        from tasks.maintenance import maintain_tables
        from tasks.publish_tables import open_warehouse

        opened = open_warehouse(catalog, store.uri)
        tables = maintain_tables(opened, keep_days=retention.snapshots, now=now, dry_run=dry_run)
    if not dry_run:
        for found in garbage:
            for key in found.keys:
                store.delete(key)
    return garbage, tables
