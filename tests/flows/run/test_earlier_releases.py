"""A store that an earlier release has written is read, and what it has answered is kept (`tests/releases/`).

The log of release 0.1.0 has a request with tools, which it refused and which is understood since: so the same
log makes another run, which takes over the answers of the one before it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.parquet as pq
import pytest

from tasks.base.identity import model_digest
from tasks.runlog.log import RunLog
from tasks.store.folder import FolderStore
from tests.support.paths import DEMO_MODEL, ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

RELEASES = sorted(path for path in (ROOT / "tests" / "releases").iterdir() if path.is_dir())
FINISHED, KILLED = "2026-11-21", "2026-11-22"


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def store(request: pytest.FixtureRequest, s3_server: str, tmp_path: Path) -> FolderStore:
    """A copy of a release's store; its log is where it was."""
    del s3_server
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="release-logs")
    client.put_object(Bucket="release-logs", Key="day.jsonl", Body=(request.param / "day.jsonl").read_bytes())
    shutil.copytree(request.param / "store", tmp_path / "store")
    return FolderStore(tmp_path / "store")


def run_log(store: FolderStore, day: str) -> RunLog:
    (first,) = [
        info.key
        for info in store.list(f"released/runs/run_date={day}/")
        if info.key.endswith("/log/00000000.json")
    ]
    found = RunLog(store, first.removesuffix("/log/00000000.json"))
    found.refresh()
    return found


def nightblend(store: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments, "--store", str(store), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode in {0, 1}, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"returncode": done.returncode}


def go_on(store: Path, log: RunLog) -> dict[str, Any]:
    """Run the command again that the release's attempt was asked by, with the model and store of here."""
    assert model_digest(DEMO_MODEL) == log.state.steps["origin"].results["model"], (
        "the demo model has changed: keep the one of the release beside its store, and name it here"
    )
    options = list(log.state.attempt.params["options"])
    options[options.index("--model") + 1] = str(DEMO_MODEL)
    place = options.index("--store")
    del options[place : place + 2]
    options[options.index("--lease-s") + 1] = "2"
    return nightblend(store, "run", *options)


def answers(store: FolderStore, log: RunLog) -> dict[str, str]:
    found = {}
    for part in log.state.parts_of("outputs"):
        rows = pq.read_table(store.root / log.key(part.name)).to_pylist()
        assert not found.keys() & {row["custom_id"] for row in rows}
        found |= {row["custom_id"]: row["text"] for row in rows}
    return found


def run_of(store: FolderStore, day: str, result: dict[str, Any]) -> tuple[RunLog, dict[str, int]]:
    """Return the run that a command has made, and how many answers it took over and computed."""
    found = RunLog(store, f"released/runs/run_date={day}/{result['run_key']}")
    found.refresh()
    counts = found.state.steps["infer"].results
    return found, {name: counts[name] for name in ("reused_answers", "computed_answers")}


def test_an_unfinished_run_goes_on(store: FolderStore) -> None:
    log = run_log(store, KILLED)
    before, kept = log.state.parts_of("outputs"), answers(store, log)
    assert len(kept) == 16
    said = nightblend(store.root, "status", "--job", "released", "--run-date", KILLED, "--lease-s", "0.5")
    assert said["status"] == "killed"

    result = go_on(store.root, log)
    assert (result["returncode"], result["reused"]) == (0, False)
    assert [result[name] for name in ("requests", "outputs", "errors", "quarantined")] == [25, 24, 1, 1]
    log.refresh()
    assert log.state.parts_of("outputs") == before
    run, counts = run_of(store, KILLED, result)
    assert counts == {"reused_answers": 16, "computed_answers": 8}
    found = answers(store, run)
    assert sorted(found) == sorted(f"r{i}" for i in range(24))
    assert kept.items() <= found.items()
    # The other date had the same requests.
    assert found == answers(store, run_log(store, FINISHED))


def test_a_finished_run_is_used_again(store: FolderStore) -> None:
    log = run_log(store, FINISHED)
    result = go_on(store.root, log)
    assert result["returncode"] == 0
    run, counts = run_of(store, FINISHED, result)
    assert counts == {"reused_answers": 24, "computed_answers": 0}
    assert answers(store, run) == answers(store, log)
    assert [result[name] for name in ("requests", "outputs", "errors", "quarantined")] == [25, 24, 1, 1]
    said = nightblend(store.root, "status", "--job", "released", "--run-date", FINISHED)
    assert (said["returncode"], said["status"]) == (0, "done")
