"""Two runs of a date, whose source has changed in between."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flows.parameters.to_request import night_request
from flows.run.failures import exit_code_of
from flows.run.sequence import run_night
from tasks.night.fence import NewerListingError
from tasks.operations.dates import view_date
from tasks.publish.publish import publish
from tasks.runlog.log import RunIsLiveError
from tasks.store.folder import FolderStore
from tests.support.dated_nights import FIRST, instead, night_of, write_day

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.night.night import Night

pytestmark = pytest.mark.slow


def run(root: Path, act: Any = lambda: None, **changed: Any) -> dict[str, Any]:
    """Run the night; `act` is called when its step publish begins."""

    def late(night: Night) -> dict[str, Any]:
        act()
        return publish(night)

    parameters = night_of(root, run_date=FIRST, **changed)
    return run_night(night_request(parameters), steps=replace(instead(), publish=late))


def published(root: Path) -> int:
    current = view_date(FolderStore(root / "store"), "triage", FIRST, lease_s=2.0).current
    assert current is not None
    return json.loads(json.dumps(current.details))["requests"]


def test_a_run_that_woke_up_late_publishes_nothing(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST, 4)
    refused: list[BaseException] = []

    def a_late_file() -> None:
        write_day(tmp_path, FIRST, 2, "late.jsonl")
        with pytest.raises(RunIsLiveError) as error:
            run(tmp_path)
        refused.append(error.value)
        assert run(tmp_path, take_over=True)["requests"] == 6

    with pytest.raises(NewerListingError) as error:
        run(tmp_path, a_late_file)
    assert [exit_code_of(one) for one in (*refused, error.value)] == [5, 5]
    assert published(tmp_path) == 6
    view = view_date(FolderStore(tmp_path / "store"), "triage", FIRST, lease_s=2.0)
    assert (view.status, len(view.runs)) == ("done", 2)
    # The same command again reads the source anew.
    again = run(tmp_path)
    assert (again["requests"], again["reused"]) == (6, True)


def test_forced_it_publishes_what_it_has_read(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST, 4)

    def a_late_file() -> None:
        write_day(tmp_path, FIRST, 2, "late.jsonl")
        run(tmp_path, take_over=True)

    assert run(tmp_path, a_late_file, force=True)["requests"] == 4
    assert published(tmp_path) == 4
    # A finished run that is not the current one any more is published again, since its listing is the newest.
    assert run(tmp_path)["reused"] is True
    assert published(tmp_path) == 6
