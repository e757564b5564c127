"""Machines and stores whose clocks differ by minutes: a lease is told by the store's clock alone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
import pytest

from tasks.runlog import liveness, records
from tasks.runlog import log as run_log
from tasks.runlog.log import RunIsLiveError, RunLog, StaleWriterError
from tasks.runlog.places import run_prefix
from tasks.runlog.records import Owner
from tasks.store.s3 import S3Store
from tests.servers.faulty_s3 import FaultyS3, StorageFault, faulty_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = run_prefix("job", "2026-01-02", "0123456789abcdef")
ELSEWHERE = Owner("another-host", 1, 1, "another-boot", "pid:[1]")
OFF_S = 300.0
LEASE_S = 2.0


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as running:
        yield running


@pytest.fixture
def store(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    bucket = f"bucket-{uuid4().hex[:12]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    return S3Store(bucket, "nights")


def log_of(store: S3Store) -> RunLog:
    return RunLog(store, PREFIX, lease_s=LEASE_S, heartbeat_s=0.2, patience_s=1.0)


@pytest.mark.parametrize(("server_s", "machine_s"), [(OFF_S, -OFF_S), (-OFF_S, OFF_S)])
def test_a_lease_is_as_long_whatever_the_clocks_say(
    store: S3Store, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, server_s: float, machine_s: float
) -> None:
    proxy.clock_off_s = server_s
    by = timedelta(seconds=machine_s)
    with monkeypatch.context() as machine:
        machine.setattr(run_log, "this_process", lambda: ELSEWHERE)
        # Machines whose clocks differ: what the holder writes down is of its own.
        for module in (records, liveness):
            machine.setattr(module, "utc_now", lambda: f"{datetime.now(UTC) + by:%FT%T}Z")
        holder = log_of(store)
        with holder.hold():
            until = time.monotonic() + LEASE_S + 1.5
            while time.monotonic() < until:
                with pytest.raises(RunIsLiveError):
                    log_of(store).claim()
                time.sleep(0.3)
            holder.finish_step("extract")
    # It is silent from now on, and did not let go.
    with monkeypatch.context() as machine:
        machine.setattr(run_log, "this_process", lambda: ELSEWHERE)
        log_of(store).claim()
    silent = time.monotonic()
    log_of(store).claim(wait=True)
    assert LEASE_S - 0.1 < time.monotonic() - silent < LEASE_S + 10


def test_a_wrong_date_may_end_a_lease_and_loses_nothing(store: S3Store, proxy: FaultyS3) -> None:
    """A gateway whose clock is ahead lets a live holder seem dead: its successor's claim is what counts."""
    proxy.skews = (OFF_S,)
    with pytest.MonkeyPatch.context() as machine:
        machine.setattr(run_log, "this_process", lambda: ELSEWHERE)
        first = log_of(store)
        first.claim()
    first.finish_step("extract")
    proxy.choose = lambda method, _: StorageFault.OTHER_DATE if method == "HEAD" else None
    second = log_of(store)
    second.claim()
    assert second.state.steps.keys() == {"extract"}
    with pytest.raises(StaleWriterError):
        first.finish_step("tokenize")
    second.finish_step("tokenize", {"by": "second"})
    proxy.choose = lambda *_: None
    assert log_of(store).refresh().steps["tokenize"].results == {"by": "second"}


def test_a_date_that_is_behind_makes_nobody_dead(store: S3Store, proxy: FaultyS3) -> None:
    proxy.skews = (-OFF_S,)
    proxy.choose = lambda method, _: StorageFault.OTHER_DATE if method == "HEAD" else None
    with pytest.MonkeyPatch.context() as machine:
        machine.setattr(run_log, "this_process", lambda: ELSEWHERE)
        log_of(store).claim()
    time.sleep(LEASE_S + 1.5)
    with pytest.raises(RunIsLiveError):
        log_of(store).claim()
    log_of(store).claim(take_over=True)
