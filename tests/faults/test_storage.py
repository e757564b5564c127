"""A night on an S3 server that answers wrongly, late, cut off, stale or never loses and doubles nothing.

The faults happen to requests on their way, in a proxy, so that the client that the product uses meets them.
They are seeded; what a night has come to is then read past the proxy.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import boto3
import pytest

from flows.run.failures import exit_code_of
from tasks.base.accounting import ExitCode
from tests.servers.faulty_s3 import FaultyS3, Seeded, StorageFault, faulty_s3
from tests.support.fault_nights import Night, check, record
from tests.support.faults import KILLS, KilledError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG: Final = os.environ.get("NIGHTBLEND_FAULTS", "")
FAULTS: Final = 340 if LONG else 60
"""At least, by each clock."""
KILLED_NIGHTS: Final = 12 if LONG else 1
PROCESSES: Final = 3
"""That meet faults; another ends the night in peace."""
CLOCKS_S: Final = (0.0, 300.0, -300.0)
"""How far the server's clock is ahead of ours."""
WRITES: Final = 57
"""Of a night, about."""


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyS3]:
    with faulty_s3(s3_server) as running:
        yield running


def night_in_a_bucket(patch: pytest.MonkeyPatch, folder: Path) -> Night:
    """Return a night in a bucket of its own."""
    bucket = f"bucket-{uuid4().hex[:12]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    return Night(folder, patch, bucket)


def processes(night: Night, proxy: FaultyS3, seed: int, kills: random.Random | None = None) -> Counter[str]:
    """Run processes of a night until one gets done in spite of all; after `PROCESSES` without faults."""
    met: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as through:
        through.setenv("AWS_ENDPOINT_URL", proxy.url)
        for attempt in range(PROCESSES):
            proxy.choose = Seeded(10 * seed + attempt)
            _, error = night.process({kills.randrange(WRITES): kills.choice(sorted(KILLS))} if kills else {})
            proxy.choose = lambda *_: None
            if error is None:
                break
            met["interrupted"] += 1
            met["kills"] += isinstance(error, KilledError)
            # The store's trouble is never called anything but that.
            assert isinstance(error, KilledError) or exit_code_of(error) is ExitCode.STOPPED, repr(error)
        night.finish()
    return met


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clock_s", CLOCKS_S if LONG else CLOCKS_S[1:2])
def test_nights_on_a_failing_server(
    impatient: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultyS3, clock_s: float
) -> None:
    proxy.clock_off_s = clock_s
    tally: Counter[str] = Counter()
    for number in count():
        night = night_in_a_bucket(impatient, tmp_path / str(number))
        met = processes(night, proxy, 1000 * CLOCKS_S.index(clock_s) + number)
        tally.update(check(night, tmp_path / "read", met["interrupted"]))
        if proxy.done.total() >= FAULTS:
            break
    tally["faults"] = proxy.done.total()
    print(dict(sorted(proxy.done.items())))
    if LONG:
        assert proxy.done.keys() == set(StorageFault)
    record(f"storage_clock_{clock_s:+.0f}s", tally)


@pytest.mark.timeout(1200)
def test_nights_that_are_killed_on_a_failing_server(
    impatient: pytest.MonkeyPatch, tmp_path: Path, proxy: FaultyS3
) -> None:
    chance = random.Random(1)
    tally: Counter[str] = Counter()
    for number in range(KILLED_NIGHTS):
        night = night_in_a_bucket(impatient, tmp_path / str(number))
        met = processes(night, proxy, 9000 + number, chance)
        tally.update(check(night, tmp_path / "read", met["interrupted"]))
        tally["kills"] += met["kills"]
    tally["faults"] = proxy.done.total()
    record("storage_and_kills", tally)
