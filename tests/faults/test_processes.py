"""Real processes that are killed at any moment, or halted for longer than their lease and woken up."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from tasks.publish.current import date_log
from tasks.runlog.state import current_publication
from tests.support.dated_nights import FIRST
from tests.support.fault_nights import JOB, PART_ANSWERS, Night, check, record
from tests.support.fault_process import computed, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG: Final = os.environ.get("NIGHTBLEND_FAULTS", "")
KILLS: Final = 6
ANSWER_S: Final = 0.1
ANSWERED_S: Final = 14 * ANSWER_S
"""What all answers of a night take; the other steps take less."""
MOST_EACH: Final = 2 * PART_ANSWERS
"""Answers that a process can lose: of the part in hand, and of one that is being stored at that moment."""


def wait_until(met: Callable[[], Any], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not LONG, reason="make test-faults")
def test_a_process_that_is_killed_at_any_moment_loses_a_part_at_most(
    quick: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chance = random.Random(22)
    tally: Counter[str] = Counter()
    for number in range(KILLS):
        folder = tmp_path / str(number)
        night = Night(folder, quick)
        process = start(folder, answer_s=ANSWER_S, lease_s=2.0)
        wait_until(partial(_has_records, folder))
        time.sleep(chance.uniform(0.0, 1.2 * ANSWERED_S))
        process.kill()
        killed = process.wait() == -signal.SIGKILL
        before = computed(folder)
        night.finish()
        night.computed += before
        tally.update(check(night, tmp_path / "read", int(killed), MOST_EACH))
        tally["kills"] += killed
    record("processes", tally)


def _has_records(folder: Path) -> bool:
    return any((folder / "store").rglob("log/*.json"))


def test_a_process_that_slept_past_its_lease_overwrites_nothing(
    quick: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    night = Night(tmp_path, quick, lease_s=2.0, heartbeat_s=0.2)
    sleeper = start(tmp_path, answer_s=ANSWER_S, lease_s=2.0)
    try:
        wait_until(lambda: len(list((tmp_path / "store").rglob("outputs/*.parquet"))) >= 2)
        os.kill(sleeper.pid, signal.SIGSTOP)
        # It is there, so its lease has to run out; then another goes on from its parts and publishes.
        halted = time.monotonic()
        night.finish()
        assert time.monotonic() - halted >= 1.5
        night.computed += computed(tmp_path)
        check(night, tmp_path / "read", 1, MOST_EACH)
        before = _state(night)
        os.kill(sleeper.pid, signal.SIGCONT)
        assert sleeper.wait(60) == 5, (tmp_path / "process.log").read_text()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert _state(night) == before
    assert sorted(night.published(tmp_path / "again")) == sorted(night.published(tmp_path / "read"))


def _state(night: Night) -> tuple[str, list[str]]:
    """The current publication, and all records of the logs."""
    current = current_publication(date_log(night.reader, JOB, FIRST, lease_s=2.0).refresh())
    assert current is not None
    records = [info.key for info in night.reader.list(f"{JOB}/") if "/log/" in info.key]
    return current.publication_id, records
