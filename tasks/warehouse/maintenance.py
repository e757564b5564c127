"""Maintenance of the Iceberg tables: old snapshots go, and with them the files that nothing else uses.

Files of publications are never touched here (`tasks.operations.retention` knows when they may go); only what
pyiceberg itself wrote below a table's own folder.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pyiceberg.exceptions import NoSuchTableError

from tasks.warehouse import tables
from tasks.warehouse.replace import retried
from tasks.warehouse.tables import OPTIONAL, PROPERTIES, TABLES

if TYPE_CHECKING:
    from collections.abc import Collection

    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maintained:
    """What was done to a table.

    Attributes
    ----------
    table
        Its name.
    expired
        Snapshots that are gone: nobody can read the table as it was then.
    deleted
        Files that only they used.
    snapshots, data_files
        What is left: snapshots, and the files of the current one.
    """

    table: str
    expired: int
    deleted: int
    snapshots: int
    data_files: int


def maintain_tables(
    catalog: Catalog, *, keep_days: float, now: datetime | None = None, dry_run: bool = False
) -> list[dict[str, Any]]:
    """Expire the snapshots of all tables that are older than `keep_days`, except the current ones.

    A snapshot that a branch or tag of a table names stays.

    Parameters
    ----------
    now
        Aware; None is the present.
    dry_run
        Say what would be expired, and change nothing.

    Returns
    -------
    list of dict
        `Maintained` of each table there is.
    """
    before = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    done = []
    for name in (*TABLES.values(), *OPTIONAL.values()):
        full = f"{tables.NAMESPACE}.{name}"
        try:
            catalog.load_table(full)
        except NoSuchTableError:
            continue

        def one(full: str = full) -> Maintained:
            return _maintain(catalog.load_table(full), before, dry_run=dry_run)

        done.append(asdict(retried(one)))
    return done


def files_in_use(catalog: Catalog, *, keep_days: float | None, now: datetime | None = None) -> set[str]:
    """Return the URI of every file that a state of the tables needs that is kept.

    Parameters
    ----------
    keep_days, now
        As for `maintain_tables`; None keeps all states.
    """
    used: set[str] = set()
    for name in (*TABLES.values(), *OPTIONAL.values()):
        try:
            table = catalog.load_table(f"{tables.NAMESPACE}.{name}")
        except NoSuchTableError:
            continue
        old = set()
        if keep_days is not None:
            old = set(_old(table, (now or datetime.now(UTC)) - timedelta(days=keep_days)))
        used |= _files(table, old)
    return used


def _old(table: Table, before: datetime) -> list[int]:
    """Return the snapshots from before an instant, without those that a branch or tag names."""
    named = {ref.snapshot_id for ref in table.metadata.refs.values()}
    named.add(table.metadata.current_snapshot_id or 0)
    limit = before.timestamp() * 1000
    return [s.snapshot_id for s in table.snapshots() if s.timestamp_ms < limit and s.snapshot_id not in named]


def _maintain(table: Table, before: datetime, *, dry_run: bool) -> Maintained:
    missing = {key: value for key, value in PROPERTIES.items() if table.properties.get(key) != value}
    old = _old(table, before)
    deleted = 0
    if not dry_run:
        if missing:
            with table.transaction() as change:
                change.set_properties(missing)
        if old:
            used = _files(table)
            table.maintenance.expire_snapshots().by_ids(old).commit()
            table.refresh()
            deleted = _delete(table, used - _files(table))
    name = table.name()[-1]
    if old:
        log.info("%s: %d snapshots expired, %d files deleted", name, len(old), deleted)
    left = len(table.snapshots()) - (len(old) if dry_run else 0)
    return Maintained(name, len(old), deleted, left, len(list(table.scan().plan_files())))


def _files(table: Table, without: Collection[int] = ()) -> set[str]:
    """Return every file that the snapshots of this handle need, some left out."""
    found: set[str] = set()
    for snapshot in table.snapshots():
        if snapshot.snapshot_id in without:
            continue
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in found:
                found.add(manifest.manifest_path)
                entries = manifest.fetch_manifest_entry(table.io, discard_deleted=False)
                found.update(entry.data_file.file_path for entry in entries)
    return found


def _delete(table: Table, files: set[str]) -> int:
    own = [file for file in sorted(files) if file.startswith(f"{table.location().rstrip('/')}/")]
    for file in own:
        try:
            table.io.delete(file)
        except FileNotFoundError:
            log.info("%s was gone already", file)
    return len(own)
