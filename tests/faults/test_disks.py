"""Full disks, of the store at any of its writes and of the scratch files: the night goes on afterwards."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from flows.run.failures import describe, exit_code_of
from tasks.base.accounting import ExitCode
from tasks.infer.progress import StoppedError
from tasks.store import local_file
from tasks.store.contract import StoreUnavailableError
from tests.support.fault_nights import Night, check

if TYPE_CHECKING:
    from pathlib import Path

WRITES = (1, 7, 20, 33, 46, 55)
"""Of the store, counted as files are: some of each step."""
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("nth", WRITES)
def test_a_full_disk_of_the_store_stops_a_night_that_goes_on(
    stored_at_once: pytest.MonkeyPatch, tmp_path: Path, nth: int
) -> None:
    night = Night(tmp_path, stored_at_once)
    written: list[int] = []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) >= nth:
            raise FULL

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        # Folders are synced as well, which nothing depends on.
        patch.setattr(local_file, "_sync_folder", lambda _: None)
        patch.setattr("tasks.store.folder._sync_folder", lambda _: None)
        _, error = night.process()
    assert isinstance(error, StoreUnavailableError), error
    assert exit_code_of(error) is ExitCode.STOPPED
    told = describe(error)
    assert "No space left on device" in told
    assert str(tmp_path / "store") in told
    night.finish()
    check(night, tmp_path / "read", 1)


@pytest.mark.parametrize("nth", [1, 3, 8])
def test_a_full_scratch_disk_stops_a_night_that_goes_on(
    stored_at_once: pytest.MonkeyPatch, tmp_path: Path, nth: int
) -> None:
    """At the nth table that is written there: of the input, of a part."""
    night = Night(tmp_path, stored_at_once)
    written: list[Any] = []
    real = pq.write_table

    def write_table(table: Any, where: Any, **settings: Any) -> None:
        written.append(where)
        if len(written) >= nth:
            raise FULL
        real(table, where, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq, "write_table", write_table)
        _, error = night.process()
    assert isinstance(error, StoppedError), error
    assert exit_code_of(error) is ExitCode.STOPPED
    assert "TMPDIR" in describe(error)
    night.finish()
    check(night, tmp_path / "read", 1)
