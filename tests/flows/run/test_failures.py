"""What hinders a night is told in one line that says what to do, with the exit code that fits."""

from __future__ import annotations

import errno
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from flows.run.failures import exit_code_of, stopped_by_full_disk, without_prefect
from flows.run.prefect_tasks import told
from flows.run.sequence import Steps, run_night
from tasks.base import disk
from tasks.base.accounting import ExitCode
from tasks.infer.progress import StoppedError
from tasks.store.contract import StoreUnavailableError
from tests.support.demo_nights import batch_line, night_request, write_lines

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def full(tmp_path):
    """A file to which every write fails as on a full disk: a link, since what fails may be removed."""
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    return link


def plain(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x")


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(100_000))


def table(path: Path) -> None:
    pq.write_table(pa.table({"x": np.zeros(100_000)}), path)


@pytest.mark.parametrize("write", [plain, arrays, table])
def test_a_full_scratch_disk_stops_a_night_and_names_tmpdir(write, full):
    with pytest.raises(StoppedError, match=r"the disk for scratch files is full .* set TMPDIR") as caught:
        told(write)(full)
    assert exit_code_of(caught.value) == ExitCode.STOPPED


def test_a_night_whose_step_finds_no_space_can_go_on(tmp_path, full):
    write_lines(tmp_path / "logs", "a.jsonl", [batch_line("a", "Count from 1 to 3", max_tokens=8)])
    with pytest.raises(StoppedError, match="TMPDIR"):
        run_night(night_request(tmp_path), steps=replace(Steps(), profile=lambda _: plain(full)))


def test_a_full_store_speaks_for_itself(monkeypatch, full):
    def store() -> None:
        try:
            plain(full)
        except OSError as error:
            raise StoreUnavailableError("/store/x: No space left on device") from error

    with pytest.raises(StoreUnavailableError):
        told(store)()
    # Unless it is the scratch disk, to which a part is copied.
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(StoppedError, match="TMPDIR"):
        told(store)()
    assert stopped_by_full_disk(OSError(errno.EIO, "Input/output error")) is None


def test_what_to_do_is_said_once(capsys):
    assert cli.explain(StoreUnavailableError("s3://x fails: run the same command again; it counts")) == 4
    assert cli.explain(StoreUnavailableError("s3://x: SlowDown after 5 attempts")) == 4
    assert [line.count("again") for line in capsys.readouterr().err.splitlines()] == [1, 1]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to reach API at http://127.0.0.1:9/api/"),
        httpx.ConnectError("refused", request=httpx.Request("GET", "http://127.0.0.1:9/api/flows")),
    ],
)
def test_a_prefect_that_does_not_answer_is_one_line(error, capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert cli.explain(error) == ExitCode.STOPPED
    (line,) = capsys.readouterr().err.splitlines()
    assert "Prefect's API at http://127.0.0.1:9/api does not answer" in line
    assert line.endswith("(--no-as-flow). Run the same command again to go on.")
    # Of another server, nothing is known.
    elsewhere = httpx.ConnectError("refused", request=httpx.Request("GET", "http://127.0.0.1:8/v1"))
    assert without_prefect(elsewhere) is None
    assert without_prefect(RuntimeError("another")) is None
