"""A date is published by the run that has read its source last, and two runs of a date know of each other."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tasks.night.fence import (
    NewerListingError,
    Reading,
    announce,
    begin_reading,
    check_first,
    check_newest,
)
from tasks.publish.current import date_log
from tasks.runlog.log import RunIsLiveError, RunLog
from tasks.runlog.places import run_prefix
from tasks.store.folder import FolderStore
from tests.support.nights import DAY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@contextmanager
def held(store: FolderStore, run_key: str) -> Iterator[RunLog]:
    prefix = run_prefix("job", DAY.isoformat(), run_key)
    with RunLog(store, prefix, lease_s=5.0, heartbeat_s=0.1).hold() as log:
        yield log


def read(store: FolderStore, listing: str) -> Reading:
    return Reading(begin_reading(store, "job", DAY), listing)


def publish(store: FolderStore, run_key: str, **details: Any) -> None:
    log = date_log(store, "job", DAY, lease_s=5.0)
    with log.hold():
        log.publish(f"of-{run_key}", run_key=run_key, attempt_id="a", details=details)


def check(store: FolderStore, log: RunLog, reading: Reading) -> None:
    check_newest(log, reading, date_log(store, "job", DAY, lease_s=5.0).refresh())


def test_a_newer_listing_replaces_an_older_one_and_not_the_other_way_round(store: FolderStore) -> None:
    with held(store, "a") as a:
        older = announce(a, read(store, "40 lines"))
    with held(store, "b") as b:
        newer = announce(b, read(store, "45 lines"))
        publish(store, "a", listed=older.number, listing=older.listing)
        check(store, b, newer)
        publish(store, "b", listed=newer.number, listing=newer.listing)
    with pytest.raises(NewerListingError, match=r"run b listed the source later .* --force"):
        check(store, a, older)
    # It stays so after a person has gone back to the older one.
    publish(store, "a", listed=older.number, listing=older.listing)
    with pytest.raises(NewerListingError):
        check(store, a, older)
    with held(store, "a") as again:
        check(store, again, announce(again, read(store, "40 lines")))


def test_a_listing_that_may_be_the_newer_one_is_not_replaced(store: FolderStore) -> None:
    before = read(store, "a")
    with held(store, "b") as b:
        newer = announce(b, read(store, "b"))
    publish(store, "b", listed=newer.number, listing=newer.listing)
    with held(store, "a") as a:
        # It was announced later, and may have listed before all the same.
        reading = announce(a, before)
        assert reading.number is not None
        assert newer.number is not None
        assert reading.number > newer.number
        with pytest.raises(NewerListingError):
            check(store, a, reading)


def test_what_does_not_compete_is_no_reason(store: FolderStore) -> None:
    with held(store, "a") as a:
        reading = announce(a, read(store, "the same"))
        publish(store, "b", listed=7, listing="the same")
        publish(store, "a", listed=8, listing="written anew with the same requests")
        publish(store, "from-an-earlier-release")
        check(store, a, reading)


def test_requests_that_were_taken_out_do_not_come_back(store: FolderStore) -> None:
    with held(store, "a") as a:
        reading = announce(a, read(store, "all"))
    listed = date_log(store, "job", DAY, lease_s=5.0).refresh().next_seq
    publish(store, "a", listed=listed, listing=None)
    with pytest.raises(NewerListingError):
        check(store, a, reading)
    with held(store, "a") as again:
        check(store, again, announce(again, read(store, "all")))


def test_of_two_live_runs_of_a_date_the_first_goes_on(store: FolderStore) -> None:
    with held(store, "a") as a:
        first = announce(a, read(store, "40 lines"))
        check_first(a, first)
        a.open_attempt(params={"publish": True, "listed": first.number})
        with held(store, "b") as b:
            second = announce(b, read(store, "45 lines"))
            check_first(a, first)
            with pytest.raises(RunIsLiveError, match="run a, with another state of the input"):
                check_first(b, second)
            # Taken over, the first is asked to stop and may not publish while the second is at it.
            check_first(b, second, take_over=True)
            b.open_attempt(params={"publish": True, "listed": second.number})
            assert a.refresh().stop_requested is not None
            with pytest.raises(NewerListingError, match="under way"):
                check(store, a, first)
            check(store, b, second)
        check(store, a, first)


@pytest.mark.parametrize(
    ("params", "live"),
    [({"publish": True}, True), ({"publish": False}, False), ({"publish": True, "listed": 3}, False)],
    ids=["an earlier release", "results for a person alone", "not announced yet"],
)
def test_live_runs_that_are_not_in_the_log_of_the_date(
    store: FolderStore, params: dict[str, Any], live: bool
) -> None:
    with held(store, "a") as a:
        a.open_attempt(params=params)
        with held(store, "b") as b:
            reading = announce(b, read(store, "45 lines"))
            if live:
                with pytest.raises(RunIsLiveError):
                    check_first(b, reading)
            else:
                check_first(b, reading)


def test_a_silent_run_is_waited_for_until_its_lease_is_over(store: FolderStore) -> None:
    def log_of(run_key: str, lease_s: float) -> RunLog:
        return RunLog(store, run_prefix("job", DAY.isoformat(), run_key), lease_s=lease_s)

    # As of a process of another machine that has died: held, and without a heartbeat.
    silent = log_of("a", 0.5)
    silent.claim()
    announce(silent, read(store, "40 lines"))
    silent.open_attempt(params={"publish": True, "listed": 0})
    with log_of("b", 0.5).hold() as b:
        began = time.monotonic()
        check_first(b, announce(b, read(store, "45 lines")))
        assert time.monotonic() - began < 5
