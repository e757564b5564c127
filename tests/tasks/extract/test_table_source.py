"""Rows of a table become the same requests, quarantine and counts as the same rows in a file."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tasks.base.errors import ConfigurationError
from tasks.extract.extract import ExtractSettings, extract
from tasks.extract.table_source import read_table_source
from tasks.store.folder import FolderStore
from tasks.warehouse.catalogs import open_catalog

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.extract.result import ExtractResult

DAY = date(2026, 3, 1)
ROWS = [
    {"id": f"t-{i}", "question": f"What is {i}?", "lang": "de" if i % 2 else "en", "day": "2026-03-01"}
    for i in range(7)
]
ROWS += [
    {"id": "t-empty", "question": None, "lang": "de", "day": "2026-03-01"},
    {"id": "t-1", "question": "What is 1?", "lang": "de", "day": "2026-03-01"},
    {"id": "t-2", "question": "Another question under a known id", "lang": "en", "day": "2026-03-01"},
    {"id": "t-other", "question": "Of another day", "lang": "en", "day": "2026-03-02"},
]
COLUMNS = {"prompt": "question", "custom_id": "id"}
SHARED = os.environ.get("NIGHTBLEND_CATALOG", "")


@pytest.fixture
def table() -> pa.Table:
    at = [datetime(2026, 3, 1, i, tzinfo=UTC) for i in range(len(ROWS))]
    return pa.Table.from_pylist(ROWS).append_column("at", pa.array(at, pa.timestamp("us", "UTC")))


def of_iceberg(table: pa.Table, folder: Path) -> str:
    uri = SHARED or f"sqlite:///{folder}/catalog.db"
    catalog = open_catalog(uri, f"file://{folder}/tables")
    namespace = f"source_{uuid4().hex[:12]}"
    catalog.create_namespace(namespace)
    catalog.create_table(f"{namespace}.tickets", schema=table.schema).append(table)
    return f"iceberg://{namespace}.tickets?catalog={uri}&filter=day = '{{run_date}}'"


def of_duckdb(table: pa.Table, folder: Path) -> str:
    with duckdb.connect(str(folder / "source.duckdb")) as connection:
        connection.register("given", table)
        connection.execute("create table tickets as select * from given")
    return f"duckdb:///{folder}/source.duckdb?query=select * from tickets where day = '{{run_date}}'"


def of_postgresql(table: pa.Table, folder: Path) -> str:
    del folder
    from adbc_driver_postgresql import dbapi

    uri = SHARED.replace("postgresql+psycopg://", "postgresql://")
    name = f"tickets_{uuid4().hex[:12]}"
    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(name, table, mode="create")
        connection.commit()
    return f"{uri}?query=select * from {name} where day = '{{run_date}}' and id not like '%Nobody%'"


needs_postgresql = pytest.mark.skipif(
    not SHARED.startswith("postgresql"), reason="needs PostgreSQL (make test-warehouse)"
)
KINDS = [of_iceberg, of_duckdb, pytest.param(of_postgresql, marks=needs_postgresql)]


def read(source: str, scratch: Path, store: FolderStore | None = None, **settings: Any) -> ExtractResult:
    made = ExtractSettings(**{"columns": COLUMNS} | settings)
    return extract(
        source, job="j", run_date=DAY, scratch=scratch / uuid4().hex, store=store, settings=made, processes=1
    )


def requests(result: ExtractResult) -> list[dict[str, Any]]:
    return [row for path in result.files("requests") for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("make", KINDS)
def test_a_table_is_read_as_a_file_of_its_rows(make: Any, table: pa.Table, tmp_path: Path) -> None:
    found = read(make(table, tmp_path), tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS if row["day"] == "2026-03-01")
    (tmp_path / "rows.jsonl").write_text(lines)
    expected = read(str(tmp_path / "rows.jsonl"), tmp_path)
    assert found.account == expected.account
    assert (found.account.quarantined, found.account.errors) == (1, 1)
    keys = ("custom_id", "prompt", "answer_key", "source_line", "max_tokens")
    by_line = [
        sorted(([row[key] for key in keys] for row in requests(r)), key=str) for r in (found, expected)
    ]
    assert by_line[0] == by_line[1]
    codes = [
        sorted(
            (row["source_line"], table, row["code"], row["field"])
            for table in ("quarantine", "errors")
            for path in r.files(table)
            for row in pq.read_table(path).to_pylist()
        )
        for r in (found, expected)
    ]
    assert codes[0] == codes[1]
    # The other columns come back with the answer.
    kept = [json.loads(row["passthrough_json"]) for row in requests(found) if row["custom_id"] == "t-3"]
    assert kept == [{"envelope": {"at": "2026-03-01T03:00:00+00:00", "day": "2026-03-01", "lang": "de"}}]
    (uri,) = {row["source_uri"] for row in requests(found)}
    assert "?" not in uri
    assert "postgres@" not in uri


@pytest.mark.parametrize("make", KINDS)
def test_the_same_rows_are_the_same_requests_and_parsed_once(
    make: Any, table: pa.Table, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    source = make(table, tmp_path)
    first, again = read(source, tmp_path, store), read(source, tmp_path, store)
    assert [found.reused for found in (*first.objects, *again.objects)] == [False, True]
    assert again.input_digest == first.input_digest
    assert sorted(map(str, requests(again))) == sorted(map(str, requests(first)))


def test_a_table_with_a_column_prompt_needs_no_mapping(table: pa.Table, tmp_path: Path) -> None:
    renamed = table.rename_columns(["custom_id", "prompt", "lang", "day", "event_time"])
    found = read(of_duckdb(renamed, tmp_path), tmp_path, columns={})
    assert found.account == read(str(_file(table, tmp_path)), tmp_path).account
    row = next(row for row in requests(found) if row["custom_id"] == "t-3")
    assert row["event_time"] == datetime(2026, 3, 1, 3, tzinfo=UTC)
    assert json.loads(row["passthrough_json"])["envelope"] == {"day": "2026-03-01", "lang": "de"}


def _file(table: pa.Table, folder: Path) -> Path:
    path = folder / "of-the-day.parquet"
    pq.write_table(table.filter(pc.equal(table["day"], "2026-03-01")), path)
    return path


def test_a_new_snapshot_is_another_object(table: pa.Table, tmp_path: Path) -> None:
    source = of_iceberg(table, tmp_path).format(run_date=DAY)
    uri = source.partition("catalog=")[2].partition("&")[0]
    one = read_table_source(source, tmp_path / "one")
    name = source.partition("://")[2].partition("?")[0]
    open_catalog(uri, "").load_table(name).append(table.slice(0, 1))
    two = read_table_source(source, tmp_path / "two")
    assert (one.uri, one.etag) != (two.uri, two.etag)
    assert one.uri == two.uri == f"iceberg://{name}"
    assert pq.read_metadata(two.path).num_rows == pq.read_metadata(one.path).num_rows + 1


def test_no_rows_are_no_requests(table: pa.Table, tmp_path: Path) -> None:
    for make in (of_iceberg, of_duckdb):
        found = read(make(table.slice(0, 0), tmp_path), tmp_path)
        assert found.account.lines == 0
        assert len(found.objects) == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("duckdb:///nowhere.duckdb?query=select 1", "there is no file /nowhere.duckdb"),
        ("duckdb:///{folder}/source.duckdb", "has no query"),
        ("duckdb:///{folder}/source.duckdb?query=select nothing from tickets", "the query failed: Binder"),
        ("duckdb:///{folder}/source.duckdb?query=select 1 a, 2 b, 3 a", "two columns are called 'a'"),
        (
            "duckdb:///{folder}/source.duckdb?query=select ('hush' || id)::int from tickets",
            "the query failed: ConversionException; its text is left out",
        ),
        ("postgresql://me:hush@localhost/db?query=select 1", "holds a password"),
        ("postgresql://localhost/db?user=me&password=hush&query=select 1", "holds a password"),
        ("postgresql://127.0.0.1:9/db?query=select 1", "the query failed: "),
        ("iceberg://a.tickets", "names no catalog"),
        ("iceberg://tickets?catalog=sqlite:///{folder}/c.db", "is not understood"),
        ("iceberg://a.tickets?catalog=sqlite:///{folder}/c.db", "there is no table a.tickets"),
        ("iceberg://a.tickets?catalog=sqlite:///{folder}/c.db&filter=day =", "the filter 'day =' is not"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    source: str, said: str, table: pa.Table, tmp_path: Path
) -> None:
    of_duckdb(table, tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        read_table_source(source.format(folder=tmp_path), tmp_path / "scratch")
    text = str(caught.value)
    assert text.startswith("--source: ")
    assert said in text
    assert "hush" not in text
    assert "\n" not in text


@needs_postgresql
@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("nothing", 'column "nothing" does not exist'),
        # Found out when the rows are fetched, and before.
        ("('hush' || id)::int", "the query failed: OSError; its text is left out"),
        ("'hush'::int", "SQLSTATE 22P02; its text is left out"),
    ],
)
def test_an_error_of_postgresql_quotes_no_row(
    column: str, said: str, table: pa.Table, tmp_path: Path
) -> None:
    source = of_postgresql(table, tmp_path).partition(" where ")[0].replace("select *", f"select {column}")
    with pytest.raises(ConfigurationError) as caught:
        read_table_source(source, tmp_path / "scratch")
    assert said in str(caught.value)
    assert "hush" not in str(caught.value)


def test_columns_that_are_not_there(table: pa.Table, tmp_path: Path) -> None:
    source = of_duckdb(table, tmp_path)
    with pytest.raises(ConfigurationError, match=r"--columns: the table has no column 'answer'.*It has id, "):
        read(source, tmp_path, columns={"prompt": "answer"})
    wrong = of_iceberg(table, tmp_path).replace("day =", "days =")
    with pytest.raises(ConfigurationError, match=r"--source: .* cannot be filtered so: .*days"):
        read(wrong, tmp_path)


def test_columns_of_every_type_come_back(tmp_path: Path) -> None:
    columns = {
        "score": ("'nan'::double", None),
        "most": ("'inf'::double", "Infinity"),
        "opens": ("TIME '10:11:12'", "10:11:12"),
        "every": ("INTERVAL 2 DAY", "P2D"),
        "big": ("170141183460469231731687303715884105727::hugeint", str(2**127 - 1)),
        "price": ("12.50::decimal(9, 2)", 12.5),
        "raw": (r"'\xff'::blob", "/w=="),
        "at": ("TIMESTAMP_NS '2026-03-01 08:30:00.123456789'", "2026-03-01T08:30:00.123456"),
        "tags": ("[1, 2]", [1, 2]),
        "shape": ("{'a': TIME '01:02:03'}", {"a": "01:02:03"}),
        "names": ("map {1: 'x'}", {"1": "x"}),
        "kind": ("'a'::enum('a', 'b')", "a"),
        "waits": ("[INTERVAL 1 MONTH]", '["P1M"]'),
        "either": ("union_value(a := 1)", "1"),
        "nothing": ("null", None),
        "never": ("'infinity'::date", "<value out of range: 2147483647>"),
    }
    with duckdb.connect(str(tmp_path / "source.duckdb")) as connection:
        made = ", ".join(f"{text} as {name}" for name, (text, _) in columns.items())
        connection.execute(f"create view tickets as select i || '?' as prompt, {made} from range(3) t(i)")
    found = read(f"duckdb:///{tmp_path}/source.duckdb?query=from tickets", tmp_path, columns={})
    assert (found.account.lines, found.account.requests, found.account.errors) == (3, 3, 0)
    for row in requests(found):
        assert json.loads(row["passthrough_json"])["envelope"] == {
            n: value for n, (_, value) in columns.items()
        }
