"""A store with its tables, read back by a reader that shares no code with the writer.

The catalog is a SQLite file; with NIGHTBLEND_CATALOG it is another, such as a PostgreSQL database.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import polars as pl
import pytest

from tasks.store.folder import FolderStore
from tasks.warehouse import tables
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import table_name

if TYPE_CHECKING:
    from pathlib import Path

Place: TypeAlias = tuple[FolderStore, str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A store and the URI of its catalog, with tables of its own where others share the catalog."""
    monkeypatch.setattr(tables, "NAMESPACE", f"test_{uuid4().hex[:12]}")
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")
    own = f"sqlite:///{tmp_path}/store/_warehouse/catalog.db"
    return FolderStore(tmp_path / "store"), os.environ.get("NIGHTBLEND_CATALOG", own)


def rows(place: Place, kind: str) -> pl.DataFrame:
    """Return all rows of the table of `kind`."""
    store, uri = place
    table = open_warehouse(uri, store.uri).load_table(f"{tables.NAMESPACE}.{table_name(kind)}")
    return pl.scan_iceberg(table.metadata_location, reader_override="native").collect()
