"""Publications in the warehouse: whatever happens to a publisher, tables and log end up saying the same."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.base.errors import ConfigurationError
from tasks.base.schema import SCHEMAS
from tasks.publish.current import roll_back
from tasks.publish.publish import publish
from tasks.runlog.log import RunLog, StaleWriterError
from tasks.runlog.places import date_prefix
from tasks.runlog.state import current_publication
from tasks.warehouse import replace, tables
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import OF_A_DATE, TABLES, ensure_table, replace_date
from tests.support.finished_nights import fill
from tests.support.nights import DAY, error, open_test_night
from tests.support.tables import Place, place, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.night.night import Night


__all__ = ["place"]


def answers(place: Place) -> dict[tuple[str, date], list[str]]:
    found: dict[tuple[str, date], list[str]] = {}
    for row in rows(place, "outputs").iter_rows(named=True):
        found.setdefault((row["job"], row["run_date"]), []).append(row["text"])
    return {key: sorted(texts) for key, texts in found.items()}


@contextmanager
def night(place: Place, scratch: Path, key: str, **more: Any) -> Iterator[Night]:
    store, uri = place
    with open_test_night(store, scratch / uuid4().hex, run_key=key, catalog=uri, **more) as made:
        if "infer" not in made.log.state.steps:
            fill(made)
        yield made


def run(place: Place, scratch: Path, key: str) -> dict[str, Any]:
    with night(place, scratch, key) as made:
        return publish(made)


A, B = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"


def consistent(place: Place, results: dict[str, Any]) -> None:
    """The date's log and every table say the same publication."""
    store, uri = place
    current = current_publication(RunLog(store, date_prefix("job", DAY.isoformat())).refresh())
    assert current is not None
    assert current.publication_id == results["publication_id"]
    catalog = open_warehouse(uri, store.uri)
    for kind in OF_A_DATE:
        table = catalog.load_table(f"{tables.NAMESPACE}.{TABLES[kind]}")
        held = {task.file.file_path for task in table.scan().plan_files()}
        assert held == ({results["tables"][kind]} if kind in results["tables"] else set())


def test_a_publication_is_in_every_table(place, tmp_path) -> None:
    results = run(place, tmp_path, A)
    consistent(place, results)
    assert set(results["tables"]) == set(OF_A_DATE)
    counts = {kind: rows(place, kind).height for kind in OF_A_DATE}
    assert counts["outputs"] == results["outputs"] == 3
    assert counts["errors"] == results["errors"] == 2
    assert counts["quarantine"] == results["quarantined"] == 1
    assert counts["profiles"] == 4
    assert counts["utilization"] == 1
    (attempt,) = rows(place, "batch_runs").iter_rows(named=True)
    assert attempt["publication_id"] == results["publication_id"]
    assert (attempt["run_key"], attempt["run_date"], attempt["policy"]) == (A, DAY, "blend")
    assert {s["table"] for s in attempt["snapshots"]} == {TABLES[kind] for kind in OF_A_DATE}
    store, uri = place
    for entry in attempt["snapshots"]:
        table = open_warehouse(uri, store.uri).load_table(f"{tables.NAMESPACE}.{entry['table']}")
        snapshot = table.snapshot_by_id(entry["snapshot_id"])
        assert snapshot is not None
        assert snapshot.summary is not None
        assert snapshot.summary["nightblend.publication"] == results["publication_id"]


def test_a_then_b_then_a_again(place, tmp_path) -> None:
    first = run(place, tmp_path, A)
    consistent(place, first)
    second = run(place, tmp_path, B)
    consistent(place, second)
    assert second["publication_id"] != first["publication_id"]
    assert run(place, tmp_path, A)["publication_id"] == first["publication_id"]
    consistent(place, first)
    # Asked again, nothing is committed.
    before = _snapshots(place)
    assert run(place, tmp_path, A) == first
    assert _snapshots(place) == before


def _snapshots(place: Place) -> list[int | None]:
    store, uri = place
    catalog = open_warehouse(uri, store.uri)
    names = [f"{tables.NAMESPACE}.{TABLES[kind]}" for kind in OF_A_DATE]
    return [catalog.load_table(name).metadata.current_snapshot_id for name in names]


def test_jobs_and_dates_in_one_table(place, tmp_path) -> None:
    run(place, tmp_path, A)
    other = replace.replace_tables
    store, uri = place
    catalog = open_warehouse(uri, store.uri)
    nothing = {"status": "completed", "policy": "blend", "requests": 0, "outputs": 0, "errors": 0}
    nothing |= {"quarantined": 0, "filtered": 0, "input_tokens": 0, "output_tokens": 0, "run_key": "k"}
    for job, day in (("other", DAY), ("job", DAY + timedelta(1))):
        row = {**nothing, "job": job, "run_date": day, "attempt_id": job, "publication_id": "p"}
        other(catalog, job, day, {}, publication_id="p", run=row, check_owner=lambda: None)
    assert answers(place) == {("job", DAY): ["line\u2028", "yes", "yes"]}
    assert rows(place, "batch_runs").height == 3
    # An empty date takes the rows away, of its own date only.
    row = {**nothing, "job": "job", "run_date": DAY, "attempt_id": "late", "publication_id": "e"}
    other(catalog, "job", DAY, {}, publication_id="e", run=row, check_owner=lambda: None)
    assert answers(place) == {}
    assert rows(place, "batch_runs").height == 4


STOPS = [
    *((replace, "replace_date", nth) for nth in range(1, 6)),
    (replace, "replace_run", 1),
    (RunLog, "publish", 1),
]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("owner", "name", "nth"), STOPS)
def test_a_crash_between_any_two_steps_is_mended_by_the_next_publisher(
    place, tmp_path, monkeypatch, owner, name, nth, done
) -> None:
    before = run(place, tmp_path, A)
    original, calls = getattr(owner, name), []

    def crash(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == nth and not done:
            raise Killed
        result = original(*arguments, **named)
        if len(calls) == nth:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(Killed):
            run(place, tmp_path, B)
    assert len(calls) == nth
    after = run(place, tmp_path, B)
    assert after["publication_id"] != before["publication_id"]
    consistent(place, after)
    assert answers(place) == {("job", DAY): ["line\u2028", "yes", "yes"]}


def test_another_commit_in_between_starts_over(place, tmp_path, monkeypatch) -> None:
    """Someone changes a table after its handle was loaded: the handle is refused, a new one is taken."""
    run(place, tmp_path, A)
    original, handles = replace.replace_date, []

    def late(table: Any, job: str, day: date, files: list[str], **named: Any) -> int | None:
        handles.append(table)
        if len(handles) == 1:
            store, uri = place
            other = open_warehouse(uri, store.uri).load_table(table.name())
            original(other, "other", day, [], **named)
            with other.transaction() as change:
                change.set_properties({"touched": "yes"})
            held = list(other.scan().plan_files())
            with other.transaction() as change:
                change.delete("job = 'job'")
            assert held
        return original(table, job, day, files, **named)

    monkeypatch.setattr(replace, "replace_date", late)
    results = run(place, tmp_path, B)
    assert len(handles) == len(OF_A_DATE) + 1
    consistent(place, results)


def test_a_publisher_that_was_taken_over_changes_nothing_more(place, tmp_path, monkeypatch) -> None:
    before = run(place, tmp_path, A)
    store, _ = place
    original = replace.ensure_table

    def taken(catalog: Any, kind: str) -> Any:
        table = original(catalog, kind)
        if kind == "errors":
            rival = RunLog(store, date_prefix("job", DAY.isoformat()), lease_s=5.0, heartbeat_s=0.5)
            rival.claim(take_over=True)
        return table

    with monkeypatch.context() as patch:
        patch.setattr(replace, "ensure_table", taken)
        with pytest.raises(StaleWriterError):
            run(place, tmp_path, B)
    current = current_publication(RunLog(store, date_prefix("job", DAY.isoformat())).refresh())
    assert current is not None
    assert current.publication_id == before["publication_id"]
    # The first table had been replaced, the others are as they were; whoever publishes next mends it.
    after = run(place, tmp_path, A)
    assert after["publication_id"] == before["publication_id"]
    consistent(place, after)


def test_files_only_then_with_tables(place, tmp_path) -> None:
    store, uri = place
    with open_test_night(store, tmp_path / "one", run_key=A) as made:
        fill(made)
        plain = publish(made)
    assert (plain["catalog"], plain["tables"]) == (None, {})
    results = run(place, tmp_path, A)
    assert results["publication_id"] == plain["publication_id"]
    assert results["catalog"] == uri
    consistent(place, results)


def test_rolling_back(place, tmp_path) -> None:
    store, uri = place
    first, second = run(place, tmp_path, A), run(place, tmp_path, B)
    consistent(place, second)
    back = roll_back(store, "job", DAY, catalog=uri, lease_s=5.0)
    assert back.id == first["publication_id"]
    consistent(place, first)
    # Again, it goes back to what was current before; by name, to any.
    assert roll_back(store, "job", DAY, catalog=uri, lease_s=5.0).id == second["publication_id"]
    consistent(place, second)
    roll_back(store, "job", DAY, to=first["publication_id"], catalog=uri, lease_s=5.0)
    consistent(place, first)
    assert rows(place, "batch_runs").height == 2
    with pytest.raises(ConfigurationError, match=r"--to: 'x' was not published .* Choose of"):
        roll_back(store, "job", DAY, to="x", catalog=uri)
    with pytest.raises(ConfigurationError, match="nothing was published for job on"):
        roll_back(store, "job", DAY + timedelta(1), catalog=uri)


def test_a_single_publication_cannot_be_rolled_back(place, tmp_path) -> None:
    store, uri = place
    only = run(place, tmp_path, A)
    with pytest.raises(ConfigurationError, match="is the only publication of job on"):
        roll_back(store, "job", DAY, catalog=uri)
    consistent(place, only)


def test_unsigned_numbers_arrive(place, tmp_path) -> None:
    """Seeds of 64 bits are decimals in the tables."""
    store, uri = place
    part = tmp_path / "errors.parquet"
    seeds = [2**64 - 1, 0, None]
    made = [error(str(i), sampling={"seed": seed}) for i, seed in enumerate(seeds)]
    pq.write_table(pa.Table.from_pylist(made, SCHEMAS["errors"]), part)
    parts = {kind: [part] if kind == "errors" else [] for kind in (*OF_A_DATE, "steps")}
    for kind in ("outputs", "quarantine"):
        pq.write_table(SCHEMAS[kind].empty_table(), tmp_path / f"{kind}.parquet")
    files = replace.write_table_files(tmp_path, parts, "job", DAY, A)
    assert list(files) == ["errors"]
    table = ensure_table(open_warehouse(uri, store.uri), "errors")
    replace_date(table, "job", DAY, [files["errors"].as_uri()], publication_id="p")
    held = rows(place, "errors").sort("custom_id")["sampling"].struct.field("seed").to_list()
    assert [None if seed is None else int(seed) for seed in held] == seeds
