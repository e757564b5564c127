"""Publishes a date to the warehouse: the tables (`tasks.warehouse.tables`) hold one publication of a date.

For each table a handle is loaded, the ownership of the date is checked, and the date is replaced through that
handle, which a change in between makes fail. Then it starts over with a new handle, never blindly.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, ValidationException

from tasks.base.schema import SCHEMAS, conform
from tasks.runlog.parts import GroupedWriter, batches, read_conforming
from tasks.store.contract import plain_path
from tasks.warehouse import tables
from tasks.warehouse.catalogs import FOLDER, open_catalog, store_properties
from tasks.warehouse.tables import (
    OF_A_DATE,
    OPTIONAL,
    add_runs,
    current_files,
    ensure_table,
    iceberg_schema,
    replace_date,
    replace_run,
    table_name,
)
from tasks.warehouse.utilization import utilization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

    from engine.cost.profiles import DeviceProfile

log = logging.getLogger(__name__)

_TRIES: Final = 30
_T = TypeVar("_T")


def open_warehouse(uri: str, store_uri: str) -> Catalog:
    """Open the catalog of a store."""
    return open_catalog(uri, f"{location(store_uri).rstrip('/')}/{FOLDER}", store_properties(store_uri))


def location(uri: str) -> str:
    """Return the URI of an object as Iceberg names it: that of a file without percent signs."""
    return f"file://{plain_path(uri)}" if uri.startswith("file://") else uri


def write_table_files(
    folder: Path,
    parts: Mapping[str, list[Path]],
    job: str,
    run_date: date,
    run_key: str,
    device: DeviceProfile | None = None,
) -> dict[str, Path]:
    """Write the rows of a run as the warehouse holds them, below `folder`.

    Parameters
    ----------
    folder
        Local, with the published Parquet files. Those that are in the form of their table serve as they are.
    parts
        Local Parquet files of outputs, errors, quarantine, profiles, steps and device samples.
    device
        What the run was computed on; without it no shares of its peaks are known.

    Returns
    -------
    dict
        Table -> its file; a table without rows has none.
    """
    found = {}
    (folder / "tables").mkdir(exist_ok=True)
    for kind in (*OF_A_DATE, *(kind for kind in OPTIONAL if kind in parts)):
        schema = iceberg_schema(kind)
        path = folder / f"{kind}.parquet"
        # No file of a publication is summed up as utilization is.
        if kind == "utilization" or not schema.equals(SCHEMAS[kind]):
            path = folder / "tables" / f"{table_name(kind)}.parquet"
            with GroupedWriter(path, schema) as writer:
                for rows in _rows(kind, parts, job, run_date, run_key, device):
                    writer.write(conform(rows, schema))
        if pq.read_metadata(path).num_rows:
            found[kind] = path
    return found


def _rows(
    kind: str,
    parts: Mapping[str, list[Path]],
    job: str,
    run_date: date,
    run_key: str,
    device: DeviceProfile | None,
) -> Iterator[pa.Table]:
    if kind == "utilization":
        if parts["steps"]:
            steps = read_conforming(parts["steps"], "steps")
            samples = read_conforming(parts.get("device_samples", []), "device_samples")
            yield utilization(steps, samples, device, job=job, run_date=run_date, run_key=run_key)
        return
    named = {"job": pa.scalar(job), "run_date": pa.scalar(run_date, pa.date32())}
    for part in parts[kind]:
        for rows in batches(part, SCHEMAS[kind]):
            if kind == "profiles":
                for name, value in named.items():
                    rows = rows.append_column(name, pa.repeat(value, rows.num_rows))  # noqa: PLW2901
            yield rows


def holds(catalog: Catalog, job: str, run_date: date, files: Mapping[str, str]) -> bool:
    """Tell whether the tables hold exactly these files (table -> URI) for a date of a job."""
    return all(
        current_files(ensure_table(catalog, kind), job, run_date)
        == ({files[kind]} if kind in files else set())
        for kind in _kinds(catalog, files)
    )


def has_date(catalog: Catalog, job: str, run_date: date) -> bool:
    """Tell whether any table holds a row of a date of a job; no table is made."""
    return any(current_files(table, job, run_date) for table in _existing(catalog))


def clear_date(catalog: Catalog, job: str, run_date: date, *, check_owner: Callable[[], object]) -> None:
    """Let the tables hold nothing of a date of a job; the rows of its attempts stay. No table is made.

    Parameters
    ----------
    check_owner
        As for `replace_tables`.
    """
    for table in _existing(catalog):

        def clear(name: tuple[str, ...] = table.name()) -> None:
            held = catalog.load_table(name)
            check_owner()
            replace_date(held, job, run_date, [], publication_id="")

        retried(clear)


def _existing(catalog: Catalog) -> Iterator[Table]:
    for kind in (*OF_A_DATE, *OPTIONAL):
        with suppress(NoSuchTableError):
            yield catalog.load_table(f"{tables.NAMESPACE}.{table_name(kind)}")


def _kinds(catalog: Catalog, files: Mapping[str, str]) -> list[str]:
    """Return the tables that a date has rows in, or may have had."""
    there = [
        kind
        for kind in OPTIONAL
        if kind in files or catalog.table_exists(f"{tables.NAMESPACE}.{table_name(kind)}")
    ]
    return [*OF_A_DATE, *there]


def replace_tables(
    catalog: Catalog,
    job: str,
    run_date: date,
    files: Mapping[str, str],
    *,
    publication_id: str,
    run: Mapping[str, Any],
    check_owner: Callable[[], object],
) -> None:
    """Let a date of a job consist of `files` in all tables, and write the row of the attempt.

    Parameters
    ----------
    files
        Table -> URI of its one file; tables without rows are left out.
    run
        Row of `batch_runs` without its `snapshots`.
    check_owner
        Raises if another process publishes this date now. Called after the handles are loaded.

    Raises
    ------
    CommitFailedException, ValidationException
        If others keep changing a table.
    """
    snapshots: list[dict[str, Any]] = []
    for kind in _kinds(catalog, files):
        wanted = [files[kind]] if kind in files else []

        def replace(kind: str = kind, wanted: list[str] = wanted) -> int | None:
            table = ensure_table(catalog, kind)
            check_owner()
            return replace_date(table, job, run_date, wanted, publication_id=publication_id)

        snapshot = retried(replace)
        if snapshot is not None:
            snapshots.append({"table": table_name(kind), "snapshot_id": snapshot})
    row = {**run, "snapshots": snapshots}

    def record() -> None:
        table = ensure_table(catalog, "batch_runs")
        check_owner()
        replace_run(table, row)

    retried(record)


def record_runs(
    catalog: Catalog, rows: Sequence[Mapping[str, Any]], check_owner: Callable[[], object]
) -> None:
    """Give attempts of one date that published nothing their rows in `batch_runs`.

    Parameters
    ----------
    check_owner
        Raises if these rows are no longer this process's to write.
    """

    def record() -> None:
        table = ensure_table(catalog, "batch_runs")
        check_owner()
        add_runs(table, rows)

    retried(record)


def retried(commit: Callable[[], _T]) -> _T:
    """Call `commit`, which loads its handles itself, from its beginning again where another came first."""
    for tried in range(_TRIES - 1):
        try:
            return commit()
        except (CommitFailedException, ValidationException) as error:
            log.info("a table changed meanwhile (%s); trying again", type(error).__name__)
            time.sleep(random.uniform(0.0, min(2.0, 0.05 * 2**tried)))  # noqa: S311 - to spread the tries
    return commit()
