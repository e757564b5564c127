"""Iceberg tables: schema contract, and replacement of a date, read back by readers other than the writer."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import CommitFailedException, ValidationException

from tasks.base.errors import ConfigurationError
from tasks.base.schema import SCHEMAS
from tasks.warehouse import tables
from tasks.warehouse.catalogs import choose_catalog, open_catalog
from tasks.warehouse.tables import TABLES, ensure_table, iceberg_schema, replace_date

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

DAY = date(2026, 3, 1)
NEXT = date(2026, 3, 2)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    uri = os.environ.get("NIGHTBLEND_CATALOG", f"sqlite:///{tmp_path}/catalog.db")
    return open_catalog(uri, f"file://{tmp_path}/tables")


@pytest.fixture(autouse=True)
def own_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog may be shared by many tests."""
    monkeypatch.setattr(tables, "NAMESPACE", f"test_{uuid4().hex[:12]}")
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")


def _file(folder: Path, name: str, lines: list[int], job: str = "a", day: date = DAY) -> str:
    schema = iceberg_schema("quarantine")
    row = {"job": job, "run_date": day, "source_uri": "s", "byte_offset": 0, "byte_length": 1}
    row |= {"code": "invalid_json", "field": None, "message": "m", "raw_text": name}
    path = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist([row | {"source_line": n} for n in lines], schema), path)
    return f"file://{path}"


def _rows(catalog: Catalog) -> list[tuple[str, date, int, str]]:
    """Rows by Polars' own reader of the metadata file, which shares no code with the writer."""
    location = catalog.load_table(f"{tables.NAMESPACE}.llm_quarantine").metadata_location
    frame = pl.scan_iceberg(location, reader_override="native").collect()
    return sorted(frame.select("job", "run_date", "source_line", "raw_text").rows())


def _table(catalog: Catalog) -> Table:
    return ensure_table(catalog, "quarantine")


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_column_keeps_name_and_nullability_and_has_a_doc(catalog: Catalog, kind: str) -> None:
    table = ensure_table(catalog, kind)
    stored = {field.name: field for field in table.schema().fields}
    added = ["job", "run_date"] if kind == "profiles" else []
    assert list(stored) == [*added, *SCHEMAS[kind].names]
    for field in SCHEMAS[kind]:
        assert stored[field.name].required == (not field.nullable)
        assert field.metadata[b"meaning"].decode() in (stored[field.name].doc or "")
    assert [field.name for field in table.spec().fields] == ["job", "run_date"]


def test_a_then_b_then_a_again_and_a_rerun(catalog: Catalog, tmp_path: Path) -> None:
    a, b = _file(tmp_path, "A", [1, 2]), _file(tmp_path, "B", [3])
    for files, want in (([a], [1, 2]), ([b], [3]), ([a], [1, 2])):
        replace_date(_table(catalog), "a", DAY, files, publication_id=files[0])
        assert [row[2] for row in _rows(catalog)] == want
    before = _table(catalog).metadata.current_snapshot_id
    assert replace_date(_table(catalog), "a", DAY, [a], publication_id=a) == before
    assert len(_rows(catalog)) == 2


def test_other_jobs_and_dates_stay(catalog: Catalog, tmp_path: Path) -> None:
    replace_date(_table(catalog), "a", DAY, [_file(tmp_path, "A", [1])], publication_id="A")
    replace_date(_table(catalog), "b", DAY, [_file(tmp_path, "B", [2], "b")], publication_id="B")
    replace_date(_table(catalog), "a", NEXT, [_file(tmp_path, "N", [3], day=NEXT)], publication_id="N")
    replace_date(_table(catalog), "a", DAY, [_file(tmp_path, "C", [4])], publication_id="C")
    assert _rows(catalog) == [("a", DAY, 4, "C"), ("a", NEXT, 3, "N"), ("b", DAY, 2, "B")]
    replace_date(_table(catalog), "a", DAY, [], publication_id="none")
    assert _rows(catalog) == [("a", NEXT, 3, "N"), ("b", DAY, 2, "B")]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_stale_handle_is_refused(catalog: Catalog, tmp_path: Path, *, earlier: bool) -> None:
    if earlier:
        replace_date(_table(catalog), "a", DAY, [_file(tmp_path, "0", [0])], publication_id="0")
    stale = _table(catalog)
    replace_date(_table(catalog), "a", DAY, [_file(tmp_path, "A", [1])], publication_id="A")
    with pytest.raises((CommitFailedException, ValidationException)):
        replace_date(stale, "a", DAY, [_file(tmp_path, "B", [2])], publication_id="B")
    assert _rows(catalog) == [("a", DAY, 1, "A")]


def test_unfit_catalogs_are_refused_without_their_password() -> None:
    with pytest.raises(ConfigurationError, match=r"--catalog: [Aa] SQLite file"):
        open_catalog("sqlite:///x.db", "s3://bucket/tables")
    with pytest.raises(ConfigurationError, match=r"unknown kind 'mysql'"):
        open_catalog("mysql://host/db", "s3://bucket/tables")
    with pytest.raises(ConfigurationError, match=r"holds a password.*PGPASSWORD") as caught:
        open_catalog("postgresql+psycopg://me:hush@host/db", "s3://bucket/tables")
    assert "hush" not in str(caught.value)


def test_which_catalog_a_store_has(tmp_path: Path) -> None:
    of_folder = f"sqlite:///{tmp_path}/store/_warehouse/catalog.db"
    assert choose_catalog(None, str(tmp_path / "store")) == of_folder
    assert choose_catalog(None, (tmp_path / "store").as_uri()) == of_folder
    assert choose_catalog("none", "s3://bucket/x") is None
    assert choose_catalog("https://catalog.example.org", "s3://bucket/x") == "https://catalog.example.org"
    assert choose_catalog(None, "~/store") == f"sqlite:///{Path.home()}/store/_warehouse/catalog.db"
    for store in ("s3://bucket/x", "S3://bucket/x", "s3a://bucket/x"):
        missing = r"--catalog: is missing, and a store on S3 has no default"
        with pytest.raises(ConfigurationError, match=missing):
            choose_catalog(None, store)
