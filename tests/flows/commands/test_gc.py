"""`nightblend gc` and the flow behind a deployment say and do the same."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from flows import cli
from tasks.publish.publish import publish
from tasks.store.folder import FolderStore
from tests.support.finished_nights import fill
from tests.support.nights import open_test_night

if TYPE_CHECKING:
    from pathlib import Path

DAYS = 24 * 3600.0


@pytest.fixture
def aged(tmp_path: Path) -> Path:
    """A store with two publications of a date, as files only, all of it a hundred days old."""
    for key in ("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"):
        with open_test_night(FolderStore(tmp_path / "store"), tmp_path / key, key) as night:
            fill(night)
            publish(night)
    before = time.time() - 100 * DAYS
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (before, before))
    return tmp_path / "store"


def runs(store: Path) -> list[str]:
    return sorted(path.parent.name for path in store.glob("job/runs/*/*/log") if any(path.iterdir()))


def test_a_dry_run_says_what_goes_and_the_real_one_deletes_it(aged: Path, capsys) -> None:
    command = ["gc", "--job", "job", "--store", str(aged)]
    assert cli.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "runs          2026-01-02  aaaaaaaaaaaaaaaa" in said
    assert "2 folders, " in said
    assert "0 snapshots of the tables would be deleted" in said
    assert len(runs(aged)) == 2
    assert cli.main([*command, "--publications-days", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(f["kind"], f["name"]) for f in found["folders"]] == [("runs", "aaaaaaaaaaaaaaaa")]
    assert runs(aged) == ["bbbbbbbbbbbbbbbb"]
    assert cli.main([*command, "--runs-days", "x"]) == 2
    assert "--runs-days: 'x' is no number of days" in capsys.readouterr().err


def test_the_flow_does_the_same(aged: Path) -> None:
    from prefect.logging import disable_run_logger

    from flows.maintenance import maintain

    asked = {"job": "job", "store": str(aged)}
    with disable_run_logger():
        dry = maintain.fn(**asked, dry_run=True)
        assert dry["folders"] == 2
        assert len(runs(aged)) == 2
        assert maintain.fn(**asked)["folders"] == 2
    assert runs(aged) == ["bbbbbbbbbbbbbbbb"]
