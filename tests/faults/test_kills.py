"""A night that dies, or whose store fails, at any durable write loses nothing and answers nothing twice.

Part of `make test` is that every piece of code that writes is reached, and a few of the faults. `make
test-faults` has them all, and kills the process that goes on as well; `make soak` puts several into one
night, as long as it is let.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from flows.run.failures import exit_code_of
from tasks.base.accounting import ExitCode
from tasks.store.contract import StoreUnavailableError
from tests.benchmarks.lib.places import RESULTS
from tests.support.fault_nights import Night, check, record
from tests.support.faults import KILLS, Fault, KilledError, write_sites

if TYPE_CHECKING:
    from pathlib import Path

LONG: Final = os.environ.get("NIGHTBLEND_FAULTS", "")
"""Empty: a few faults; `all`: each one; a number: minutes of random ones, too."""
NOT_OF_A_NIGHT: Final = {
    "tasks/infer/give_way.py": "who wants the device; written anew by each, and read while it lives",
    "tasks/operations/doctor.py": "asks the store for the time, and takes it away again",
    "tasks/operations/forget.py": "tests/tasks/operations/test_forget.py ends it at each of its writes",
    "tasks/operations/retention.py": "deletes what nothing needs, and is repeated",
    "tasks/runlog/liveness.py": "the heartbeat, which only decides how long others wait",
}
"""Code that writes to a store and is not reached by a night, with the reason."""


def test_every_durable_write_of_the_code_is_reached(
    stored_at_once: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan, error = Night(tmp_path, stored_at_once).process()
    assert error is None
    reached = set(plan.sites)
    inside = {site.partition(":")[0] for site in reached}
    missed = {site for site in write_sites() - reached if site.partition(":")[0] not in NOT_OF_A_NIGHT}
    assert not missed, (
        f"a night of this test has to come through here, or NOT_OF_A_NIGHT to say why: {missed}"
    )
    assert not inside & NOT_OF_A_NIGHT.keys()
    assert NOT_OF_A_NIGHT.keys() <= {site.partition(":")[0] for site in write_sites()}


@pytest.mark.parametrize("fault", Fault, ids=[fault.name for fault in Fault])
def test_one_fault_at_any_write(stored_at_once: pytest.MonkeyPatch, tmp_path: Path, fault: Fault) -> None:
    whole, _ = Night(tmp_path / "undisturbed", stored_at_once).process()
    places = list(range(len(whole.sites)))
    if not LONG:
        places = random.Random(fault.name).sample(places, 2)
    tally: Counter[str] = Counter()
    for number in places:
        night = Night(tmp_path / str(number), stored_at_once)
        plan, error = night.process({number: fault})
        where = f"write {number} ({plan.sites[number]}) was {fault}"
        if fault in KILLS:
            assert isinstance(error, KilledError), where
        elif error is not None:
            # The store's trouble is never called anything but that.
            assert isinstance(error, StoreUnavailableError), where
            assert exit_code_of(error) is ExitCode.STOPPED
        try:
            night.finish()
            tally.update(check(night, tmp_path / "read", int(error is not None)))
        except AssertionError as wrong:
            raise AssertionError(where) from wrong
        tally["kills" if fault in KILLS else "faults"] += 1
    record(f"each_write_{fault.name.lower()}", tally)


@pytest.mark.parametrize("fault", sorted(KILLS))
def test_the_process_that_goes_on_is_killed_as_well(
    stored_at_once: pytest.MonkeyPatch, tmp_path: Path, fault: Fault
) -> None:
    """First at any write, then at any of those that are left, seeded."""
    chance = random.Random(fault.name)
    whole, _ = Night(tmp_path / "undisturbed", stored_at_once).process()
    tally: Counter[str] = Counter()
    for number in range(0, len(whole.sites), 2 if LONG else 40):
        night = Night(tmp_path / str(number), stored_at_once)
        night.process({number: fault})
        # Claims come first; most of the writes are those that the first process would have made.
        second = chance.randrange(2, max(4, len(whole.sites) - number))
        _, error = night.process({second: chance.choice(sorted(KILLS))})
        kills = 1 + isinstance(error, KilledError)
        try:
            night.finish()
            tally.update(check(night, tmp_path / "read", kills))
        except AssertionError as wrong:
            raise AssertionError(f"writes {number} and {second}") from wrong
        tally["kills"] += kills
    record(f"killed_twice_{fault.name.lower()}", tally)


def test_the_figures_that_are_kept_are_those_of_enough_faults() -> None:
    """Written by `make test-faults WRITE=1`."""
    kept = json.loads((RESULTS / "faults.json").read_text())
    assert (kept["lost"], kept["doubled"], kept["wrong"]) == (0, 0, 0)
    assert kept["kills"] >= 200
    assert sum(of["faults"] for name, of in kept["kinds"].items() if name.startswith("storage")) >= 1000
    assert kept["wasted_share_beyond_a_part_each"] <= 0.05


@pytest.mark.skipif(not LONG.isdigit(), reason="make soak")
def test_several_faults_in_a_night(stored_at_once: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chance = random.Random(int(time.time()))
    whole, _ = Night(tmp_path / "undisturbed", stored_at_once).process()
    tally: Counter[str] = Counter()
    end = time.monotonic() + 60 * int(LONG)
    while time.monotonic() < end:
        night = Night(tmp_path / f"{tally['nights']}", stored_at_once)
        done = []
        for _ in range(chance.randint(1, 5)):
            fault = chance.choice(list(Fault))
            number = chance.randrange(len(whole.sites))
            plan, _ = night.process({number: fault})
            if len(plan.sites) > number:
                done.append(fault)
        night.finish()
        tally.update(check(night, tmp_path / "read", len(done)))
        tally.update("kills" if fault in KILLS else "faults" for fault in done)
    record("several", tally)
