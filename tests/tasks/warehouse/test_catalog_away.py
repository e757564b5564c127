"""A catalog that goes away in the middle of a publication: exit 4, and the next run mends it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event

from flows.run.failures import describe, exit_code_of
from tasks.base.accounting import ExitCode
from tasks.publish.publish import publish
from tasks.runlog.log import RunLog
from tasks.runlog.places import date_prefix
from tasks.runlog.state import current_publication
from tasks.store.contract import StoreUnavailableError
from tasks.warehouse import tables
from tasks.warehouse.catalogs import catalog_errors
from tasks.warehouse.replace import open_warehouse
from tasks.warehouse.tables import OF_A_DATE, TABLES
from tests.support.finished_nights import fill
from tests.support.nights import DAY, open_test_night
from tests.support.tables import Place, place, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["place"]
SECRET = "words of a driver"


@contextmanager
def dies_at(statement: int) -> Iterator[list[str]]:
    """Let no catalog answer from a statement on (counted from 0); yields what it was asked."""
    asked: list[str] = []

    def execute(cursor: Any, text: str, parameters: Any, context: Any) -> None:
        del cursor, parameters
        asked.append(text)
        if len(asked) > statement:
            raise context.dialect.loaded_dbapi.OperationalError(SECRET)

    event.listen(Engine, "do_execute", execute)
    try:
        yield asked
    finally:
        event.remove(Engine, "do_execute", execute)


def run(place: Place, scratch: Path, key: str) -> dict[str, Any]:
    store, uri = place
    with open_test_night(store, scratch / uuid4().hex, run_key=key, catalog=uri) as night:
        if "infer" not in night.log.state.steps:
            fill(night)
        return publish(night)


def test_the_next_run_ends_what_a_dead_catalog_left(place: Place, tmp_path: Path) -> None:
    store, uri = place
    before = run(place, tmp_path, "0" * 16)
    with dies_at(10**6) as asked:
        run(place, tmp_path, "f" * 16)
    statements = len(asked)
    assert statements > 20
    for number, statement in enumerate(range(0, statements, statements // 4)):
        key = f"{number + 1:016x}"
        with dies_at(statement), pytest.raises(StoreUnavailableError) as caught:
            run(place, tmp_path, key)
        assert exit_code_of(caught.value) is ExitCode.STOPPED
        told = describe(caught.value)
        assert f"the catalog {uri}" in told
        assert "run the same command again" in told
        assert SECRET not in told
        log = RunLog(store, date_prefix("job", DAY.isoformat()))
        current = current_publication(log.refresh())
        assert current is not None
        assert current.publication_id != before["publication_id"] or number == 0
        after = run(place, tmp_path, key)
        current = current_publication(log.refresh())
        assert current is not None
        assert current.publication_id == after["publication_id"]
        catalog = open_warehouse(uri, store.uri)
        for kind in OF_A_DATE:
            table = catalog.load_table(f"{tables.NAMESPACE}.{TABLES[kind]}")
            held = {task.file.file_path for task in table.scan().plan_files()}
            assert held == ({after["tables"][kind]} if kind in after["tables"] else set())
        assert rows(place, "outputs").height == after["outputs"]


def test_what_is_no_trouble_of_a_catalog_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), catalog_errors("sqlite:///x"):
        raise ZeroDivisionError
    for error in (ConnectionRefusedError(111, SECRET), OSError(28, SECRET)):
        with pytest.raises(StoreUnavailableError, match="the catalog http://c"), catalog_errors("http://c"):
            raise error
