"""DuckDB, Polars and pyarrow read the tables, each by its own code, and find the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow.dataset as ds

from tasks.publish.publish import publish
from tasks.warehouse import tables
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import TABLES
from tests.support.finished_nights import fill
from tests.support.nights import DAY, open_test_night
from tests.support.tables import Place, place

if TYPE_CHECKING:
    from pathlib import Path

    from pyiceberg.table import Table

__all__ = ["place"]


def by_polars(table: Table) -> list[dict[str, Any]]:
    return pl.scan_iceberg(table.metadata_location, reader_override="native").collect().to_dicts()


def by_pyarrow(table: Table) -> list[dict[str, Any]]:
    paths = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    return ds.dataset(paths, format="parquet").to_table().to_pylist()


def by_duckdb(table: Table) -> list[dict[str, Any]]:
    paths = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        found = connection.execute("select * from read_parquet($paths)", {"paths": paths})
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def by_duckdb_over_arrow(table: Table) -> list[dict[str, Any]]:
    """The scan of pyiceberg, streamed into DuckDB.

    Pyiceberg 0.12 makes an empty list of a null list of structs, in which no other reader follows it.
    """
    scanned = table.scan().to_arrow_batch_reader()
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("scanned", scanned)
        found = connection.execute("from scanned")
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return [row | {"choices": row["choices"] or None} if "choices" in row else row for row in rows]


def test_three_readers_find_the_same(place: Place, tmp_path: Path) -> None:
    store, uri = place
    with open_test_night(store, tmp_path / "night", catalog=uri) as night:
        fill(night)
        results = publish(night)
    catalog = open_warehouse(uri, store.uri)
    for kind, name in TABLES.items():
        table = catalog.load_table(f"{tables.NAMESPACE}.{name}")
        found = [read(table) for read in (by_polars, by_pyarrow, by_duckdb, by_duckdb_over_arrow)]
        key = "request_id" if kind in {"outputs", "errors", "profiles"} else "job"
        first, *others = [sorted(rows, key=lambda row: row[key]) for rows in found]
        assert first, kind
        for rows in others:
            assert rows == first, kind
        assert {(row["job"], row["run_date"]) for row in first} == {("job", DAY)}
        if kind in results:
            assert len(first) == results[kind]
