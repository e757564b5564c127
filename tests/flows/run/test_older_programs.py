"""Earlier releases of this very program read what today's has written, or say that they cannot; and back.

The programs are taken from the repository's history and run with today's environment. Where the history is
not there (a shallow clone, an archive) there is nothing to run. Step infer is replaced on both sides, so that
no engine is compiled: it is the store that is tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from tasks.runlog.log import RunLog
from tasks.runlog.places import date_prefix
from tasks.runlog.records import PromiseAtRisk
from tasks.store.folder import FolderStore
from tests.support.canary_nights import Behaviour, names, run, steps_of, write_day
from tests.support.dated_nights import FIRST, day, instead
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PROGRAMS = {
    "0.1.0": "ab4282aaf9ea5b31e274a34c6db19cbd34bdec3c",
    "before candidates": "680f740^",
}
"""The commits: the release whose store is in `tests/releases`, and the last one that knew no candidates."""
JOB = "triage"
WRITES = """
from pathlib import Path
from tests.support import dated_nights as nights
from flows.run.sequence import run_night
try:
    from flows.parameters.to_request import night_request
except ImportError:
    night_request = lambda parameters: parameters.to_request()
root = Path({root!r})
for n in range(2):
    nights.write_day(root, nights.day(n), 5 + n)
    asked = nights.night_of(root, run_date=nights.day(n), report=False)
    run_night(night_request(asked), steps=nights.instead())
"""


class Program:
    """An earlier program, from a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *typed: str, code: int = 0) -> str:
        """Run it with today's interpreter; return its stdout, or its stderr if it is to end with an error."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        done = subprocess.run(
            [sys.executable, *typed],
            cwd=self.folder,
            env={**environment, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def command(self, *typed: str, code: int = 0) -> str:
        return self.run("-m", "flows.cli", *typed, code=code)


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("program")
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", PROGRAMS[request.param]]
    try:
        archive = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if archive.returncode:
        said = archive.stderr.decode().strip().splitlines()[-1]
        pytest.skip(f"the history is not here, so there is no earlier program to run ({said})")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    found = Program(folder)
    # It is that program that runs, not the one of the environment.
    assert Path(found.run("-c", "import flows; print(flows.__file__)").strip()).is_relative_to(folder)
    return found


def write_store_of_today(root: Path) -> list[dict[str, Any]]:
    """Write a store with what earlier programs do not know: stages, promises; of two publications."""
    given = {"canary_steps": "50,100", "canary_option": ["policy=dfs"], "promise": ["t1=06:00,20%"]}
    found = []
    for count in (20, 24):
        write_day(root, FIRST, count)
        found.append(run(root, FIRST, steps_of(Behaviour()), **given))
    store = FolderStore(root / "store")
    log = RunLog(store, Path(found[-1]["run_dir"]).relative_to(root / "store").as_posix())
    log.note(PromiseAtRisk("t1", "2026-03-28T06:00:00+00:00", "2026-03-28T07:00:00+00:00"))
    return found


def place(root: Path) -> tuple[str, ...]:
    return ("--job", JOB, "--store", str(root / "store"), "--run-date", str(FIRST))


def test_it_reads_a_store_of_today_and_goes_back_in_it(program: Program, tmp_path: Path) -> None:
    first, second = write_store_of_today(tmp_path)
    said = json.loads(program.command("status", *place(tmp_path), "--json"))
    assert (said["status"], said["published"]) == ("done", second["publication_id"])
    program.command(
        "rollback", *place(tmp_path), "--to", first["publication_id"], "--catalog", "none", "--json"
    )
    # What it has made current is that for today's program, with each request once.
    state = RunLog(FolderStore(tmp_path / "store"), date_prefix(JOB, str(FIRST))).refresh()
    assert state.publications[-1].publication_id == first["publication_id"]
    assert len(names(first)[0]) == 20


def test_what_it_cannot_read_it_says_in_one_clear_line(program: Program, tmp_path: Path) -> None:
    write_store_of_today(tmp_path)
    log = tmp_path / "store" / JOB / "dates" / f"run_date={FIRST}" / "log"
    newest = sorted(log.glob("*.json"))[-1]
    record = json.loads(newest.read_text())
    newest.write_text(json.dumps(record | {"version": record["version"] + 1}))
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    said = program.command("status", *place(tmp_path), code=1).strip()
    assert said.count("\n") == 0, said
    assert "has format 2, this program reads up to 1: upgrade it" in said
    assert {path: path.read_bytes() for path in before} == before


def test_todays_program_reads_what_it_has_written_and_goes_on_with_it(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.run("-c", WRITES.format(root=str(tmp_path)))
    assert main(["status", *place(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["requests"], said["errors"]) == ("done", 5, 0)
    assert main(["inspect", said["run_dir"]]) == 0
    capsys.readouterr()
    # The same night, asked for today: nothing is answered twice, and what was published is still that.
    again = run(tmp_path, FIRST, instead())
    assert len(names(again)[0]) == 5
    assert {row["run_key"] for row in outputs(again)} == {row["run_key"] for row in outputs(said)}
    assert main(["rollback", *place(tmp_path), "--list", "--catalog", "none"]) == 0
    assert main(["status", "--job", JOB, "--store", str(tmp_path / "store"), "--run-date", str(day(1))]) == 0


def outputs(result: dict[str, Any]) -> list[dict[str, Any]]:
    return list(pq.read_table(Path(result["output_file"]).parent / "outputs.parquet").to_pylist())
