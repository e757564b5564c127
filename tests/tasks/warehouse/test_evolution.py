"""Tables of earlier versions go on: columns are only added or become nullable, and old rows stay readable.

`released/` holds the schemas as they were when a table of each first got into a warehouse. Such a file is
never changed; add one, a copy of `tests/tasks/base/golden/schema.json`, when another version has been
released.
"""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.base.schema import VERSIONS, describe
from tasks.publish.publish import publish
from tasks.warehouse import tables
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import (
    PROPERTIES,
    TABLES,
    VERSION,
    ensure_table,
    iceberg_schema,
    replace_date,
)
from tests.support.finished_nights import fill
from tests.support.nights import AT, DAY, open_test_night, output
from tests.support.tables import Place, place, rows

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["place"]
RELEASED = sorted((Path(__file__).parent / "released").glob("*.json"))
REQUIRED = " not null"
assert RELEASED, "no released schema is found, so nothing would be tested"


def relaxed(old: str, new: str) -> bool:
    """Whether a type is what it was, but for fields inside that may be null now."""
    while old or new:
        if old.startswith(REQUIRED) and not new.startswith(REQUIRED):
            old = old.removeprefix(REQUIRED)
        elif old[:1] == new[:1]:
            old, new = old[1:], new[1:]
        else:
            return False
    return True


def breaches(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a table of `old` could not follow to `new`, by adding columns and relaxing their nullability."""
    found = []
    for kind in TABLES:
        now = {column["name"]: column for column in new[kind]["columns"]}
        before = {column["name"]: column for column in old[kind]["columns"]}
        for name, column in before.items():
            if name not in now:
                found.append(f"{kind}.{name} is gone")
            elif not relaxed(column["type"], now[name]["type"]) or now[name]["unit"] != column["unit"]:
                found.append(f"{kind}.{name} is another")
            elif column["nullable"] and not now[name]["nullable"]:
                found.append(f"{kind}.{name} has nulls in old rows")
        found += [
            f"{kind}.{name} is missing in old rows"
            for name, column in now.items()
            if name not in before and not column["nullable"]
        ]
    return found


def test_only_nulls_inside_of_a_type_may_be_more() -> None:
    old = "struct<a: int32 not null, b: list<element: string not null>>"
    assert relaxed(old, old)
    assert relaxed(old, old.replace("int32 not null", "int32"))
    assert relaxed(old, old.replace(" not null", ""))
    assert not relaxed(old.replace(" not null", ""), old)
    assert not relaxed(old, old.replace("int32", "int64"))
    assert not relaxed(old, old.replace("b:", "c:"))
    assert not relaxed(old, old.replace(", b: list<element: string not null>", ""))
    assert not relaxed("int32", "int32, more")


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_the_schemas_of_today_extend_those_of(path: Path) -> None:
    assert breaches(json.loads(path.read_text()), describe()) == []


def test_a_breach_is_noticed() -> None:
    new = describe()
    for change, said in (
        ({"name": "other"}, ["errors.code is gone", "errors.other is missing in old rows"]),
        ({"type": "int32"}, ["errors.code is another"]),
        ({"unit": "s"}, ["errors.code is another"]),
    ):
        changed = deepcopy(new)
        next(c for c in changed["errors"]["columns"] if c["name"] == "code").update(change)
        assert breaches(new, changed) == said
    nullable = deepcopy(new)
    next(c for c in nullable["errors"]["columns"] if c["name"] == "code")["nullable"] = True
    assert breaches(new, nullable) == []
    assert breaches(nullable, new) == ["errors.code has nulls in old rows"]


def earlier(kind: str, released: dict[str, Any]) -> pa.Schema:
    """The schema of a table as it was: fewer columns, more of them without nulls."""
    columns = {column["name"]: column for column in released[kind]["columns"]}
    return pa.schema(
        [
            field.with_nullable(columns[field.name]["nullable"])
            for field in iceberg_schema(kind)
            if field.name in columns
        ]
    )


def make_earlier(place: Place, kind: str, schema: pa.Schema) -> Table:
    store, uri = place
    catalog = open_warehouse(uri, store.uri)
    catalog.create_namespace_if_not_exists(tables.NAMESPACE)
    name = f"{tables.NAMESPACE}.{TABLES[kind]}"
    with (
        catalog.create_table_transaction(
            name, schema=schema, properties={**PROPERTIES, VERSION: "1"}
        ) as creation,
        creation.update_spec() as spec,
    ):
        spec.add_identity("job")
        spec.add_identity("run_date")
    return catalog.load_table(name)


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_runs_of_an_earlier_version_and_of_this_one_are_in_one_table(
    place: Place, tmp_path: Path, path: Path
) -> None:
    schema = earlier("batch_runs", json.loads(path.read_text()))
    old = {"job": "job", "run_date": DAY, "run_key": "k", "attempt_id": "old", "publication_id": "p"}
    old |= {"status": "Completed", "policy": "dfs", "snapshots": []}
    old |= {field.name: 1 for field in schema if field.type == pa.int64()}
    table = make_earlier(place, "batch_runs", schema)
    table.append(pa.Table.from_pylist([old], schema=schema))
    store, uri = place
    with open_test_night(store, tmp_path / "night", catalog=uri) as night:
        fill(night)
        results = publish(night)
    found = {row["attempt_id"]: row for row in rows(place, "batch_runs").iter_rows(named=True)}
    assert set(found) == {"old", night.attempt.id}
    assert {name: found["old"][name] for name in old} == old
    assert found["old"]["ended_at"] is None
    assert found[night.attempt.id]["ended_at"] == datetime.fromisoformat(results["ended_at"]).astimezone(UTC)
    table = open_warehouse(uri, store.uri).load_table(table.name())
    assert table.properties[VERSION] == str(VERSIONS["batch_runs"])
    assert {field.name: field.doc for field in table.schema().fields}["ended_at"]
    required = {field.name for field in table.schema().fields if field.required}
    assert required == {field.name for field in iceberg_schema("batch_runs") if not field.nullable}


def test_files_of_an_earlier_version_go_into_a_later_table(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publication of before an upgrade can be rolled back to; a program of before it still publishes."""
    store, uri = place
    schema = iceberg_schema("outputs")
    file = tmp_path / "old.parquet"
    pq.write_table(pa.Table.from_pylist([output("a", finished_at=AT)], schema=schema), file)
    later = schema.append(pa.field("added", pa.string(), metadata={"doc": "New"}))
    catalog = open_warehouse(uri, store.uri)
    with monkeypatch.context() as patch:
        patch.setattr(tables, "iceberg_schema", lambda _: later)
        patch.setitem(VERSIONS, "outputs", VERSIONS["outputs"] + 1)
        replace_date(ensure_table(catalog, "outputs"), "job", DAY, [file.as_uri()], publication_id="p")
    assert rows(place, "outputs").select("custom_id", "added").rows() == [("a", None)]
    # The earlier program leaves the later table as it is.
    table = ensure_table(catalog, "outputs")
    assert "added" in table.schema().column_names
    replace_date(table, "job", DAY, [], publication_id="q")
    replace_date(ensure_table(catalog, "outputs"), "job", DAY, [file.as_uri()], publication_id="p")
    assert rows(place, "outputs").height == 1


def test_what_an_engine_may_leave_out_was_required_before(place: Place, tmp_path: Path) -> None:
    """Tokens from the cache: a table of before takes files in which they are null."""
    store, uri = place
    now = iceberg_schema("outputs")
    usage = now.field("usage")
    required = pa.struct([field.with_nullable(nullable=False) for field in usage.type])
    make_earlier(place, "outputs", now.set(now.get_field_index("usage"), usage.with_type(required)))
    told = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": None}
    file = tmp_path / "new.parquet"
    pq.write_table(pa.Table.from_pylist([output("a", finished_at=AT, usage=told)], schema=now), file)
    table = ensure_table(open_warehouse(uri, store.uri), "outputs")
    replace_date(table, "job", DAY, [file.as_uri()], publication_id="p")
    assert rows(place, "outputs")["usage"].to_list() == [told]
