"""A published date answered once more with other settings: compared, and nothing of it published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.api.shadow import shadow
from flows.cli import main
from tasks.base.errors import ConfigurationError
from tasks.operations.dates import view_date
from tasks.operations.retry import published_options
from tasks.store.folder import FolderStore
from tests.support.canary_nights import Behaviour, run, steps_of, write_day
from tests.support.dated_nights import FIRST, night_of

COUNT = 100


def test_what_is_published_stays_and_is_compared(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST, COUNT)
    published = run(tmp_path, FIRST, steps_of(Behaviour()))
    before = {path: path.read_bytes() for path in Path(published["folder"]).iterdir()}
    steps = steps_of(Behaviour(differing=30, failing=4, tokens=8, speed=500.0))
    found = shadow(night_of(tmp_path, run_date=FIRST), ["policy=dfs"], steps=steps)
    assert (found["shadow"], found["publication_id"]) == ("policy=dfs", published["publication_id"])
    assert (found["published"]["outputs"], found["published"]["errors"]) == (COUNT, 0)
    assert (found["shadowed"]["outputs"], found["shadowed"]["errors"]) == (COUNT - 4, 4)
    assert found["compared"] == COUNT - 4
    assert 0.6 < found["exact"] < 0.8
    assert [found[side]["mean_output_tokens"] for side in ("published", "shadowed")] == [4.0, 8.0]
    assert found["shadowed"]["tokens_per_second"] == pytest.approx(500.0)
    assert found["published"]["finish_reasons"] == {"stop": COUNT}
    # Nothing of what is published has changed, and the date has no other publication.
    assert {path: path.read_bytes() for path in Path(published["folder"]).iterdir()} == before
    view = view_date(FolderStore(tmp_path / "store"), "triage", FIRST, lease_s=2.0)
    assert view.current is not None
    assert view.current.publication_id == published["publication_id"]
    # Once more it is there already.
    again = shadow(night_of(tmp_path, run_date=FIRST), ["policy=dfs"], steps=steps_of(Behaviour(dies=True)))
    assert again == found
    part = shadow(night_of(tmp_path, run_date=FIRST), ["policy=dfs"], percent=30, steps=steps)
    assert 10 < part["published"]["outputs"] < 50


def test_the_command_asks_for_the_night_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["shadow", "--job", "triage", "--store", str(tmp_path / "store"), "--run-date", str(FIRST)]
    typed += ["--option", "policy=dfs"]
    write_day(tmp_path, FIRST, 30)
    assert main(typed) == 2
    assert "nothing is published" in capsys.readouterr().err
    run(tmp_path, FIRST, steps_of(Behaviour()), max_tokens=7)
    assert "7" in published_options(FolderStore(tmp_path / "store"), "triage", FIRST)[1]
    monkeypatch.setattr("flows.api.shadow.answer_side", _with_steps(steps_of(Behaviour(dies=True))))
    assert main([*typed, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["failure"], told["shadowed"]["outputs"]) == ("the engine died", 15)
    assert main(typed) == 1
    shown = capsys.readouterr().out
    # It went on where it had died: 15 of 30, then half of the rest.
    assert "Of 22 answers that both gave: 100.0% equal" in shown
    assert "It ended early: the engine died" in shown
    for wrong, said in (
        (["--by", "colour"], "--by: 'colour' is unknown"),
        (["--percent", "0"], "--percent: 0 is no share"),
        (["--option", "top_p=1"], "--option: one is not of the form"),
        (["--scorer", "no.such:f"], "cannot be loaded"),
    ):
        assert main([*typed, *wrong]) == 2
        assert said in capsys.readouterr().err


def _with_steps(steps):
    from flows.run.sequence import answer_side

    return lambda request, _: answer_side(request, steps)


def test_what_is_different_has_to_be_said(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST, 5)
    run(tmp_path, FIRST, steps_of(Behaviour()))
    with pytest.raises(ConfigurationError, match="--option: is missing"):
        shadow(night_of(tmp_path, run_date=FIRST), [])
