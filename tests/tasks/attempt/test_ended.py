"""Attempts that publish nothing have their rows in `batch_runs`; a killed one has it from its successor."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tasks.attempt.ended import end_killed, ending, failed_rows, record_failed
from tasks.base.accounting import Account
from tasks.publish.publish import publish
from tasks.warehouse import replace
from tests.support.finished_nights import fill
from tests.support.nights import DAY, error, open_test_night, output, request, write, write_inputs
from tests.support.tables import Place, place, rows

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tasks.night.night import Night

__all__ = ["place"]
KEY = "cccccccccccccccc"


def record(night: Night, place: Place) -> None:
    record_failed(night.log, night.job, night.run_date, night.run_key, place[1])


def attempts(place: Place) -> dict[str, dict[str, Any]]:
    return {row["attempt_id"]: row for row in rows(place, "batch_runs").iter_rows(named=True)}


def test_every_ending_has_its_row(place: Place, tmp_path: Path) -> None:
    store, uri = place
    ids = []
    with open_test_night(store, tmp_path / "1", KEY) as night:
        ids.append(night.attempt.id)
        night.log.end_attempt("failed", 1, ending("AccountingError"))
        record(night, place)
    with open_test_night(store, tmp_path / "2", KEY) as night:
        ids.append(night.attempt.id)
        write_inputs(night, [request(name) for name in "ab"], Account(lines=4, quarantined=1, requests=3))
        write(night, "errors", [error("refused")])
        write(night, "outputs", [output("a")])
        night.log.end_attempt("stopped", 4, ending("StoppedError"))
        record(night, place)
    with open_test_night(store, tmp_path / "3", KEY) as night:
        ids.append(night.attempt.id)
        write(night, "outputs", [output("b")])
        # It is killed here: nothing is recorded by itself.
    with open_test_night(store, tmp_path / "4", KEY) as night:
        ids.append(night.attempt.id)
        end_killed(night.log)
    found = attempts(place)
    assert set(found) == set(ids[:2])
    with open_test_night(store, tmp_path / "5", KEY) as night:
        record(night, place)
        before = len(night.log.state.attempts)
        record(night, place)
    found = attempts(place)
    assert before == 5
    # The fourth attempt ended the third one and, as nobody ended it otherwise, itself.
    assert {name: row["status"] for name, row in found.items()} == dict(
        zip(ids, ["Failed", "Stopped", "Killed", "Killed"], strict=True)
    )
    assert [found[name]["exit_code"] for name in ids] == [1, 4, 4, 4]
    assert [found[name]["reason"] for name in ids[:3]] == ["AccountingError", "StoppedError", "killed"]
    assert [found[name]["requests"] for name in ids] == [None, 3, 3, 3]
    assert [found[name]["outputs"] for name in ids] == [0, 1, 2, 2]
    assert [found[name]["errors"] for name in ids] == [0, 1, 1, 1]
    assert all(row["ended_at"] is not None for row in found.values())
    assert all(row["publication_id"] is None and row["snapshots"] == [] for row in found.values())
    assert {row["run_date"] for row in found.values()} == {DAY}
    del uri


def test_an_aborted_one_says_so(place: Place, tmp_path: Path) -> None:
    with open_test_night(place[0], tmp_path / "1", KEY) as night:
        night.log.end_attempt("failed", 1, ending("AbortedError", aborted=True))
        assert [row["status"] for row in failed_rows(night.log.state, "job", DAY, KEY)] == ["Aborted"]


def test_a_catalog_that_is_away_is_caught_up_with(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("secret address")

    with open_test_night(place[0], tmp_path / "1", KEY) as night:
        first = night.attempt.id
        night.log.end_attempt("stopped", 4, ending("StoppedError"))
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(replace, "open_warehouse", away)
            record(night, place)
    assert "not in batch_runs yet (ConnectionError)" in caplog.text
    assert "secret" not in caplog.text
    with open_test_night(place[0], tmp_path / uuid4().hex, KEY, catalog=place[1]) as night:
        record(night, place)
        fill(night)
        results = publish(night)
        second = night.attempt.id
    found = attempts(place)
    assert {name: row["status"] for name, row in found.items()} == {first: "Stopped", second: "Completed"}
    assert found[second]["publication_id"] == results["publication_id"]
    assert found[second]["ended_at"] is not None
