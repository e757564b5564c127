"""What is kept no longer goes; what is published, and the run that made it, never."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tasks.base.errors import ConfigurationError
from tasks.operations.retention import Retention, clean_up, find_garbage
from tasks.publish.current import roll_back
from tasks.publish.publish import publish
from tasks.runlog.places import publication_prefix
from tasks.warehouse import tables
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import TABLES
from tests.support.finished_nights import fill
from tests.support.nights import DAY, open_test_night, read_published
from tests.support.tables import Place, place, rows

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.operations.retention import Garbage

__all__ = ["place"]
A, B = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"


def run(place: Place, scratch: Path, key: str) -> dict[str, Any]:
    with open_test_night(place[0], scratch / key, key, catalog=place[1]) as night:
        if "infer" not in night.log.state.steps:
            fill(night)
        return publish(night)


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def put_back(place: Place, prefix: str, days: float) -> None:
    """Let objects have been written days ago."""
    for info in list(place[0].list(prefix)):
        then = info.last_modified.timestamp() - days * 86_400
        os.utime(place[0].root / info.key, (then, then))


def named(garbage: list[Garbage]) -> list[tuple[str, str]]:
    return [(found.kind, found.name) for found in garbage]


def keys(place: Place) -> set[str]:
    return {info.key for info in place[0].list("")}


def snapshots(place: Place) -> dict[str, int]:
    catalog = open_warehouse(place[1], place[0].uri)
    return {
        kind: len(catalog.load_table(f"{tables.NAMESPACE}.{name}").snapshots())
        for kind, name in TABLES.items()
    }


def test_only_what_is_old_and_not_current_goes(place: Place, tmp_path: Path) -> None:
    store, catalog = place
    first, second = run(place, tmp_path, A), run(place, tmp_path, B)
    store.put("job/parsed/run_date=2026-01-02/settings/group/group.json", b"{}")
    store.put("other/runs/run_date=2026-01-02/cccccccccccccccc/log/00000000.json", b"{}")
    retention = Retention(runs=90, parsed=30, publications=60, snapshots=20)
    assert find_garbage(store, "job", retention, later(29)) == []
    assert named(find_garbage(store, "job", retention, later(31))) == [("parsed", "settings/group")]
    old = [
        ("parsed", "settings/group"),
        ("publications", first["publication_id"]),
        ("runs", A),
    ]
    before, held = keys(place), {kind: rows(place, kind) for kind in TABLES}
    states = snapshots(place)
    found, maintained = clean_up(store, "job", retention, catalog=catalog, dry_run=True, now=later(91))
    assert named(found) == old
    assert sum(table["expired"] for table in maintained) > 0
    assert keys(place) == before
    assert snapshots(place) == states

    found, maintained = clean_up(store, "job", retention, catalog=catalog, dry_run=False, now=later(91))
    assert named(found) == old
    assert set(snapshots(place).values()) == {1}
    assert {table["table"]: table["expired"] for table in maintained} == {
        TABLES[kind]: count - 1 for kind, count in states.items()
    }
    gone = before - keys(place)
    assert {key for garbage in found for key in garbage.keys} <= gone
    # What went beside these folders are files that pyiceberg wrote for the snapshots.
    prefix = publication_prefix("job", DAY, second["publication_id"])
    assert not any(key.startswith((prefix, "other/", f"job/runs/run_date={DAY}/{B}")) for key in gone)
    read_published(store, prefix, tmp_path / "read")
    assert all(rows(place, kind).equals(held[kind]) for kind in TABLES)
    # Nothing is left to do; the current run answers again, and the one before it cannot come back.
    assert clean_up(store, "job", retention, catalog=catalog, dry_run=False, now=later(91))[0] == []
    assert run(place, tmp_path, B) == second
    with pytest.raises(ConfigurationError, match=r"the files of publication .* are gone"):
        roll_back(store, "job", DAY, catalog=catalog, lease_s=5.0)
    # A run that was deleted begins anew.
    assert run(place, tmp_path, A)["outputs"] == 3


def test_a_deletion_that_was_interrupted_is_repeated(place: Place, tmp_path: Path) -> None:
    store, _ = place
    run(place, tmp_path, A)
    run(place, tmp_path, B)
    retention = Retention(parsed=None, publications=None)
    (old,) = find_garbage(store, "job", retention, later(91))
    log = [key for key in old.keys if "/log/" in key]
    assert old.keys[: len(log)] == tuple(sorted(log, reverse=True))
    for key in old.keys[:5]:
        store.delete(key)
    (again,) = find_garbage(store, "job", retention, later(91))
    assert set(again.keys) == set(old.keys[5:])


def test_a_publication_is_as_old_as_what_replaced_it(place: Place, tmp_path: Path) -> None:
    store, catalog = place
    first, second = run(place, tmp_path, A), run(place, tmp_path, B)
    old = publication_prefix("job", DAY, first["publication_id"])
    put_back(place, f"{old}/", days=100)
    kept = Retention(runs=None, parsed=None)
    assert find_garbage(store, "job", kept) == []
    # It was replaced long ago, but a later state of the tables has its rows.
    put_back(place, f"job/dates/run_date={DAY}/", days=100)
    assert [found.name for found in find_garbage(store, "job", kept)] == [first["publication_id"]]
    assert clean_up(store, "job", kept, catalog=catalog, dry_run=False)[0] == []
    table = open_warehouse(catalog, store.uri).load_table(f"{tables.NAMESPACE}.{TABLES['outputs']}")
    for snapshot in table.snapshots():
        table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
    # A catalog that is not asked cannot say that it needs nothing.
    assert clean_up(store, "job", kept, catalog=None, dry_run=True)[0] == []
    other = f"sqlite:///{tmp_path}/other.db"
    assert clean_up(store, "job", kept, catalog=other, dry_run=True)[0] == []
    found, _ = clean_up(store, "job", kept, catalog=catalog, dry_run=False, now=later(31))
    assert [garbage.name for garbage in found] == [first["publication_id"]]
    read_published(store, publication_prefix("job", DAY, second["publication_id"]), tmp_path / "read")


def test_rows_in_tables_stay_though_no_log_names_them(place: Place, tmp_path: Path) -> None:
    """A run was killed between the commit to the tables and the record in the date's log."""
    store, catalog = place
    made = run(place, tmp_path, A)
    for info in list(store.list(f"job/dates/run_date={DAY}/")):
        store.delete(info.key)
    kept = Retention(runs=None, parsed=None)
    assert named(find_garbage(store, "job", kept, later(91))) == [("publications", made["publication_id"])]
    assert clean_up(store, "job", kept, catalog=catalog, dry_run=False, now=later(91))[0] == []
    assert rows(place, "outputs").height == 3


def test_what_was_used_since_it_was_found_stays(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, catalog = place
    run(place, tmp_path, A)
    run(place, tmp_path, B)
    keep = Retention(runs=None, parsed=None, snapshots=20, publications=20)

    def go_back_meanwhile(*_: Any, **__: Any) -> list[dict[str, Any]]:
        roll_back(store, "job", DAY, catalog=catalog, lease_s=5.0)
        return []

    monkeypatch.setattr("tasks.warehouse.maintenance.maintain_tables", go_back_meanwhile)
    monkeypatch.setattr("tasks.warehouse.maintenance.files_in_use", lambda *_, **__: set())
    assert clean_up(store, "job", keep, catalog=catalog, dry_run=False, now=later(91))[0] == []
    assert rows(place, "outputs").height == 3


def test_a_named_state_of_a_table_stays(place: Place, tmp_path: Path) -> None:
    store, catalog = place
    run(place, tmp_path, A)
    table = open_warehouse(catalog, store.uri).load_table(f"{tables.NAMESPACE}.{TABLES['outputs']}")
    first = table.metadata.current_snapshot_id
    assert first is not None
    table.manage_snapshots().create_tag(first, "audit").commit()
    run(place, tmp_path, B)
    clean_up(store, "job", Retention(), catalog=catalog, dry_run=False, now=later(91))
    table.refresh()
    assert table.scan(snapshot_id=first).to_arrow().num_rows == 3


def test_a_run_that_is_held_is_not_old(place: Place, tmp_path: Path) -> None:
    store, _ = place
    with open_test_night(store, tmp_path / "a", A) as night:
        fill(night)
        # Its heartbeat is of now.
        assert find_garbage(store, "job", Retention(), datetime.now(UTC)) == []


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"runs": 0.5}, r"--runs-days: 0.5 is too little"),
        ({"runs": float("nan")}, "--runs-days: nan is no number of days"),
        ({"parsed": float("inf")}, "--parsed-days: inf is no number of days"),
        ({"publications": 10, "snapshots": 20}, "--publications-days: is less than --snapshots-days"),
        ({"publications": 10, "snapshots": None}, "--publications-days: is less than --snapshots-days"),
    ],
)
def test_settings_that_would_delete_too_much(kept: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Retention(**kept).check()
