"""A step that is killed after its parts and before its record leaves nothing that counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.runlog.log import RunLog
from tasks.runlog.places import run_prefix
from tasks.store.folder import FolderStore
from tests.support.dated_nights import FIRST, instead, night_of
from tests.support.demo_nights import batch_line, write_lines

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


class KilledError(BaseException):
    """Nothing is written down any more."""


def write_logs(root: Path) -> None:
    """Two objects with answers, error rows and broken lines each; the later one by name is parsed first."""
    folder = root / "logs" / FIRST.isoformat()
    for name, pad in (("a.jsonl", 4), ("b.jsonl", 1_100_000)):
        lines = [batch_line(f"{name}-{i}", f"Count from {i} to {i + 4}.", max_tokens=8) for i in range(3)]
        lines.append(batch_line(f"{name}-tools", "x" * pad, tools=[{"type": "function"}]))
        lines.append(batch_line(f"{name}-long", f"{name} " * 2000))
        write_lines(folder, name, [*lines, "{broken " + name])


def run(root: Path) -> dict[str, Any]:
    parameters = night_of(root, run_date=FIRST, max_bad_fraction=0.9, abort_quarantined_fraction=0.9)
    return run_night(night_request(parameters), steps=instead())


def test_parts_of_a_step_that_was_not_recorded_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_logs(tmp_path)
    finish = RunLog.finish_step

    def killed(log: RunLog, name: str, *given: Any, **more: Any) -> Any:
        if name == "tokenize":
            raise KilledError
        return finish(log, name, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "finish_step", killed)
        with pytest.raises(KilledError):
            run(tmp_path)

    # The large object was parsed first; its kept rows come back in the order of names.
    result = run(tmp_path)
    assert [result[name] for name in ("requests", "outputs", "errors", "quarantined")] == [10, 6, 4, 2]


def test_what_a_killed_step_wrote_in_another_order_does_not_count(tmp_path: Path) -> None:
    write_logs(tmp_path)
    expected = run(tmp_path)
    store = FolderStore(tmp_path / "store")
    whole = RunLog(store, run_prefix("triage", FIRST.isoformat(), expected["run_key"]))
    before = whole.refresh()
    kinds = ("errors", "quarantine", "profiles")
    with whole.hold():
        whole.open_attempt(fresh=True)
        # The files of one object twice, as another grouping would have made them, and no record of the steps.
        for kind in kinds:
            for part in before.parts_of(kind):
                path = tmp_path / part.name.replace("/", "-")
                whole.fetch_part(part, path)
                whole.write_part(kind, path, ext="parquet", count=part.count, label="other")
    result = run(tmp_path)
    assert result["reused"] is False
    counts = ("requests", "outputs", "errors", "quarantined")
    assert [result[name] for name in counts] == [expected[name] for name in counts] == [10, 6, 4, 2]
    after = whole.refresh()
    assert {kind: [p.name for p in after.parts_of(kind)] for kind in kinds} == {
        kind: [p.name for p in before.parts_of(kind)] for kind in kinds
    }
