"""Nights that one process after another runs until they are done, and what has become of their requests."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import boto3
import pyarrow.parquet as pq

from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.attempt import extract_inputs
from tasks.publish.current import date_log
from tasks.runlog import log as run_log
from tasks.runlog.liveness import this_process
from tasks.runlog.log import RunLog
from tasks.runlog.places import publication_prefix, run_prefix
from tasks.runlog.state import current_publication
from tasks.store.folder import FolderStore
from tasks.store.s3 import S3Store
from tests.benchmarks.lib.places import RESULTS, processor
from tests.support.dated_nights import FIRST, instead, night_of
from tests.support.demo_nights import batch_line, write_lines
from tests.support.faults import FaultyS3Store, FaultyStore, KilledError, Plan
from tests.support.nights import read_published

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from flows.run.sequence import Steps
    from tests.support.faults import Fault

JOB: Final = "triage"
PART_ANSWERS: Final = 2
ANSWERS: Final = 7
"""Requests with an answer in each of two files, beside one that is refused and a broken line."""
FILES: Final = ("a.jsonl", "b.jsonl")
EXPECTED: Final = {f"{name}-{i}": f"answer to {name}-{i}" for name in FILES for i in range(ANSWERS)} | {
    f"{name}-tools": "unsupported_parameter" for name in FILES
}
"""Custom id -> text or error code."""


def write_day(folder: Path) -> None:
    """Write the logs of the night."""
    for name in FILES:
        lines = [batch_line(f"{name}-{i}", f"Count {name} from {i}.", max_tokens=8) for i in range(ANSWERS)]
        lines.append(batch_line(f"{name}-tools", "x", tools=[{"type": "function"}]))
        write_lines(folder, name, [*lines, f"{{broken {name}"])


@dataclass
class Night:
    """Processes that run a night one after the other, in a folder or in a bucket.

    Attributes
    ----------
    bucket
        Of logs and store; '' for folders below `root`. It is reached as the environment says when a
        process starts.
    reader
        The store as it is, whatever happens to those who use it.
    lease_s, heartbeat_s
        Settings of the night.
    computed
        How often each request was answered.
    """

    root: Path
    patch: pytest.MonkeyPatch
    bucket: str = ""
    lease_s: float = 0.3
    heartbeat_s: float = 0.05
    reader: FolderStore | S3Store = field(init=False)
    computed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        logs = self.root / "logs" / FIRST.isoformat()
        write_day(logs)
        self.reader = S3Store(self.bucket, "nights") if self.bucket else FolderStore(self.root / "store")
        if self.bucket:
            client = boto3.session.Session().client("s3")
            for path in sorted(logs.iterdir()):
                client.upload_file(str(path), self.bucket, f"logs/{FIRST}/{path.name}")

    def process(self, faults: Mapping[int, Fault] | None = None) -> tuple[Plan, BaseException | None]:
        """Run it once; return what was written, and what ended it."""
        plan = Plan(faults or {})
        places: dict[str, Any] = {}
        if self.bucket:
            places = {"source": f"s3://{self.bucket}/logs/{{run_date}}/", "store": self.reader.uri}
            # Whoever held it before was another process, and is gone: its lease need not be waited for.
            self.patch.setattr(run_log, "this_process", lambda: replace(this_process(), start_time=1))

        def opened(_: str) -> FolderStore | S3Store:
            if self.bucket:
                return FaultyS3Store(self.bucket, "nights", plan)
            return FaultyStore(self.root / "store", plan)

        self.patch.setattr(extract_inputs, "open_store", opened)
        limits = {"max_bad_fraction": 1.0, "abort_quarantined_fraction": 1.0}
        times = {"lease_s": self.lease_s, "heartbeat_s": self.heartbeat_s}
        parameters = night_of(
            self.root, run_date=FIRST, part_answers=PART_ANSWERS, report=False, **times, **limits, **places
        )
        try:
            run_night(night_request(parameters), steps=self.steps())
        except (KilledError, Exception) as error:  # noqa: BLE001 - how it ended is what is looked at
            return plan, error
        return plan, None

    def steps(self) -> Steps:
        """Return steps that need no engine and count what they answer."""
        return instead(text=self.answer)

    def answer(self, row: Mapping[str, Any]) -> str:
        """Return the text of a request's answer."""
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
        current = current_publication(date_log(self.reader, JOB, FIRST, lease_s=1.0).refresh())
        assert current is not None
        self._check_parts(current.run_key)
        found = read_published(self.reader, publication_prefix(JOB, FIRST, current.publication_id), into)
        return [(line["custom_id"], _text(line)) for line in found["output"] + found["errors"]]

    def _check_parts(self, run_key: str) -> None:
        """Look that the parts that count have each answer once."""
        log = RunLog(self.reader, run_prefix(JOB, FIRST.isoformat(), run_key))
        ids: Counter[str] = Counter()
        for part in log.refresh().parts_of("outputs"):
            table = pq.read_table(io.BytesIO(self.reader.get(log.key(part.name))))
            assert table.num_rows == part.count
            ids.update(table.column("request_id").to_pylist())
        assert (len(ids), ids.total()) == (2 * ANSWERS, 2 * ANSWERS)


def _text(line: Mapping[str, Any]) -> str:
    if line["error"] is not None:
        return str(line["error"]["code"])
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def check(night: Night, folder: Path, interrupted: int, most_each: int = PART_ANSWERS) -> Counter[str]:
    """Count what is wrong with what a night has come to, and check that nothing is.

    Parameters
    ----------
    interrupted
        How often a process of it was killed, or stopped because its store failed: each costs what had no
        part yet.
    most_each
        Most answers that each may have cost.
    """
    lines = night.published(folder)
    often = Counter(name for name, _ in lines)
    found = Counter(
        lost=len(EXPECTED.keys() - often.keys()),
        doubled=sum(often.values()) - len(often),
        wrong=sum(EXPECTED.get(name) != text for name, text in lines),
        wasted=night.computed.total() - 2 * ANSWERS,
        interrupted=interrupted,
        nights=1,
    )
    assert (found["lost"], found["doubled"], found["wrong"]) == (0, 0, 0)
    assert 0 <= found["wasted"] <= interrupted * most_each
    return found


def record(kind: str, tally: Counter[str]) -> None:
    """Print what was done and found, and keep it among the results of benchmarks where that is asked for."""
    told = _figures(tally) | {"wasted_answers": tally["wasted"], "interrupted": tally["interrupted"]}
    print(json.dumps({kind: told}))
    if not os.environ.get("NIGHTBLEND_FAULTS_WRITE"):
        return
    path = RESULTS / "faults.json"
    with path.open("a+", encoding="utf-8") as file:
        # Tests run side by side.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        kinds = (json.loads(text)["kinds"] if text else {}) | {kind: told}
        total: Counter[str] = Counter()
        for one in kinds.values():
            total.update({name: one[name] for name in _SUMMED})
            total.update(wasted=one["wasted_answers"], interrupted=one["interrupted"])
        results = {
            **_figures(total),
            "wasted_share_beyond_a_part_each": _beyond(total),
            "kinds": dict(sorted(kinds.items())),
            "where": {
                "label": "measured, with answers that cost nothing",
                "date": datetime.now(UTC).date().isoformat(),
                "machine": f"{processor()}, {os.cpu_count()} cores",
                "load": [round(value, 2) for value in os.getloadavg()],
            },
        }
        file.seek(0)
        file.truncate()
        file.write(json.dumps(results, indent=2) + "\n")


_SUMMED: Final = ("nights", "kills", "faults", "lost", "doubled", "wrong")


def _figures(tally: Counter[str]) -> dict[str, Any]:
    share = tally["wasted"] / max(1, tally["nights"] * 2 * ANSWERS)
    return {name: tally[name] for name in _SUMMED} | {"wasted_share": round(share, 4)}


def _beyond(tally: Counter[str]) -> float:
    """Return the share of answers computed again beyond one part for each process that was ended."""
    over = tally["wasted"] - tally["interrupted"] * PART_ANSWERS
    return round(max(0, over) / max(1, tally["nights"] * 2 * ANSWERS), 4)
