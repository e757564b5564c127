"""A night that dies, or whose store fails, at any durable write loses nothing and answers nothing twice.

Part of `make test` is that every piece of code that writes is reached, and a few of the faults. `make
test-faults` has them all; `make soak` puts several into one night, as long as it is let.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest

from flows.parameters.to_request import night_request
from flows.run.failures import exit_code_of
from flows.run.sequence import run_night
from tasks.attempt import extract_inputs, tokenize_inputs
from tasks.base.accounting import ExitCode
from tasks.infer.uploads import Uploads
from tasks.profile.tokenize import load_tokenizer
from tasks.publish.current import date_log, publication_prefix
from tasks.runlog import log as run_log
from tasks.runlog.state import current_publication
from tasks.store.contract import StoreUnavailableError
from tests.support.dated_nights import FIRST, instead, night_of
from tests.support.demo_nights import batch_line, write_lines
from tests.support.faults import KILLS, Fault, FaultyStore, KilledError, Plan, write_sites
from tests.support.nights import read_published
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LONG: Final = os.environ.get("NIGHTBLEND_FAULTS", "")
"""Empty: a few faults; `all`: each one; a number: minutes of random ones, too."""
PART_ANSWERS: Final = 2
ANSWERS: Final = 7
NOT_OF_A_NIGHT: Final = {
    "tasks/infer/give_way.py": "who wants the device; written anew by each, and read while it lives",
    "tasks/operations/doctor.py": "asks the store for the time, and takes it away again",
    "tasks/operations/forget.py": "tests/tasks/operations/test_forget.py ends it at each of its writes",
    "tasks/operations/retention.py": "deletes what nothing needs, and is repeated",
    "tasks/runlog/liveness.py": "the heartbeat, which only decides how long others wait",
}
"""Code that writes to a store and is not reached by a night, with the reason."""


@dataclass
class Night:
    """Processes that run a night one after the other in a folder."""

    root: Path
    patch: pytest.MonkeyPatch
    computed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for name in ("a.jsonl", "b.jsonl"):
            lines = [
                batch_line(f"{name}-{i}", f"Count {name} from {i}.", max_tokens=8) for i in range(ANSWERS)
            ]
            lines.append(batch_line(f"{name}-tools", "x", tools=[{"type": "function"}]))
            write_lines(self.root / "logs" / FIRST.isoformat(), name, [*lines, f"{{broken {name}"])

    def process(self, faults: Mapping[int, Fault] | None = None) -> tuple[Plan, BaseException | None]:
        """Run it once; return what was written, and what ended it."""
        plan = Plan(faults or {})
        self.patch.setattr(extract_inputs, "open_store", lambda _: FaultyStore(self.root / "store", plan))
        limits = {"max_bad_fraction": 1.0, "abort_quarantined_fraction": 1.0}
        parameters = night_of(
            self.root,
            run_date=FIRST,
            part_answers=PART_ANSWERS,
            report=False,
            lease_s=0.3,
            heartbeat_s=0.05,
            **limits,
        )
        try:
            run_night(night_request(parameters), steps=instead(text=self._answer))
        except (KilledError, Exception) as error:  # noqa: BLE001 - how it ended is what is looked at
            return plan, error
        return plan, None

    def _answer(self, row: Mapping[str, Any]) -> str:
        self.computed[row["request_id"]] += 1
        return f"answer to {row['custom_id']}"

    def finish(self) -> None:
        """Run it until it is done."""
        for _ in range(3):
            error = self.process()[1]
            if error is None:
                return
        raise AssertionError("it does not get done") from error

    def published(self, into: Path) -> list[tuple[str, str]]:
        """Return custom id and text or error code of each published line; all sums are checked."""
        store = FaultyStore(self.root / "store", Plan())
        current = current_publication(date_log(store, "triage", FIRST, lease_s=1.0).refresh())
        assert current is not None
        found = read_published(store, publication_prefix("triage", FIRST, current.publication_id), into)
        return [(line["custom_id"], _text(line)) for line in found["output"] + found["errors"]]


def _text(line: Mapping[str, Any]) -> str:
    if line["error"] is not None:
        return str(line["error"]["code"])
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


EXPECTED: Final = {
    f"{name}-{i}": f"answer to {name}-{i}" for name in ("a.jsonl", "b.jsonl") for i in range(ANSWERS)
} | dict.fromkeys(["a.jsonl-tools", "b.jsonl-tools"], "unsupported_parameter")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The tokenizer is loaded once, a store that fails is not waited for, and no answer comes meanwhile.

    A kill ends the thread that stores parts with its process: here they are stored where they are made.
    """
    loaded = cache(load_tokenizer)
    for module in (extract_inputs, tokenize_inputs):
        monkeypatch.setattr(module, "load_tokenizer", loaded)
    patient = run_log.NumberedRecords
    monkeypatch.setattr(run_log, "NumberedRecords", lambda store, prefix, _: patient(store, prefix, 0.2))
    monkeypatch.setattr(Uploads, "put", lambda _, store, __: store())
    return monkeypatch


def test_every_durable_write_of_the_code_is_reached(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan, error = Night(tmp_path, quick).process()
    assert error is None
    reached = set(plan.sites)
    inside = {site.partition(":")[0] for site in reached}
    missed = {site for site in write_sites() - reached if site.partition(":")[0] not in NOT_OF_A_NIGHT}
    assert not missed, (
        f"a night of this test has to come through here, or NOT_OF_A_NIGHT to say why: {missed}"
    )
    assert not inside & NOT_OF_A_NIGHT.keys()
    assert NOT_OF_A_NIGHT.keys() <= {site.partition(":")[0] for site in write_sites()}


def check(night: Night, folder: Path, faults: int) -> Counter[str]:
    """Count what is wrong with what a night has come to, and check that nothing is."""
    lines = night.published(folder)
    often = Counter(name for name, _ in lines)
    found = Counter(
        lost=len(EXPECTED.keys() - often.keys()),
        doubled=sum(often.values()) - len(often),
        wrong=sum(EXPECTED.get(name) != text for name, text in lines),
        wasted=night.computed.total() - 2 * ANSWERS,
        nights=1,
    )
    assert (found["lost"], found["doubled"], found["wrong"]) == (0, 0, 0)
    # A kill costs what had no part yet; so does an error of the store, which ends the step.
    assert 0 <= found["wasted"] <= faults * PART_ANSWERS
    return found


@pytest.mark.parametrize("fault", Fault, ids=[fault.name for fault in Fault])
def test_one_fault_at_any_write(quick: pytest.MonkeyPatch, tmp_path: Path, fault: Fault) -> None:
    whole, _ = Night(tmp_path / "undisturbed", quick).process()
    places = list(range(len(whole.sites)))
    if not LONG:
        places = random.Random(fault.name).sample(places, 2)
    tally: Counter[str] = Counter()
    for number in places:
        night = Night(tmp_path / str(number), quick)
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
            tally.update(check(night, tmp_path / "read", 1))
        except AssertionError as wrong:
            raise AssertionError(where) from wrong
        tally["kills" if fault in KILLS else "faults"] += 1
    record(f"each_write_{fault.name.lower()}", tally)


@pytest.mark.skipif(not LONG.isdigit(), reason="make soak")
def test_several_faults_in_a_night(quick: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chance = random.Random(int(time.time()))
    whole, _ = Night(tmp_path / "undisturbed", quick).process()
    tally: Counter[str] = Counter()
    end = time.monotonic() + 60 * int(LONG)
    while time.monotonic() < end:
        night = Night(tmp_path / f"{tally['nights']}", quick)
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


def record(kind: str, tally: Counter[str]) -> None:
    """Print what was done and found, and keep it among the results of benchmarks where that is asked for."""
    figures = {name: tally[name] for name in ("nights", "kills", "faults", "lost", "doubled", "wrong")}
    told = {kind: {**figures, "wasted_share": tally["wasted"] / (tally["nights"] * 2 * ANSWERS)}}
    print(json.dumps(told))
    if os.environ.get("NIGHTBLEND_FAULTS_WRITE"):
        path = ROOT / "tests" / "benchmarks" / "results" / "faults.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | told, indent=2) + "\n")
