"""`nightblend rollback`: what there is, one date, many dates."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import main
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from tasks.base.release import release
from tasks.operations.dates import view_date
from tasks.operations.publications import go_back, publications_of
from tasks.publish.current import date_log
from tasks.runlog.places import publication_prefix
from tasks.store.folder import FolderStore
from tests.support.dated_nights import FIRST, day, instead, night_of, write_day

if TYPE_CHECKING:
    from pathlib import Path


def night(root: Path, n: int, **changed: Any) -> str:
    parameters = night_of(root, run_date=day(n), report=False, **changed)
    return str(run_night(night_request(parameters), steps=instead())["publication_id"])


def store_of(root: Path) -> FolderStore:
    return FolderStore(root / "store")


def current(root: Path, n: int) -> str:
    found = view_date(store_of(root), "triage", day(n)).current
    assert found is not None
    return found.publication_id


def published_at(root: Path, n: int) -> list[datetime]:
    state = date_log(store_of(root), "triage", day(n), lease_s=2.0).refresh()
    return [datetime.fromisoformat(at) for at in state.published_at]


@pytest.fixture
def dates(tmp_path: Path) -> tuple[Path, dict[str, str], datetime]:
    """Dates 0 and 1 are published twice, 2 only afterwards; and a time between."""
    made = {}
    for n in (0, 1):
        write_day(tmp_path, day(n), 2)
        made[f"{n} first"] = night(tmp_path, n)
    between = max(published_at(tmp_path, n)[-1] for n in (0, 1)) + timedelta(milliseconds=1)
    for n in (0, 1, 2):
        write_day(tmp_path, day(n), 1, "late.jsonl")
        made[f"{n} second"] = night(tmp_path, n, policy="fcfs")
    return tmp_path, made, between


def asked(root: Path, *words: str) -> list[str]:
    return ["rollback", "--job", "triage", "--store", str(root / "store"), "--catalog", "none", *words]


def test_many_dates_go_back_to_what_was_current_then(dates, capsys) -> None:
    root, made, between = dates
    several = ("--first", str(day(0)), "--last", str(day(3)), "--as-of", between.isoformat())
    assert main(asked(root, *several, "--json")) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["changed"], said["failed"]) == (2, 1)
    assert [(one["run_date"], one["before"], one["now"]) for one in said["dates"]] == [
        (str(day(0)), made["0 second"], made["0 first"]),
        (str(day(1)), made["1 second"], made["1 first"]),
        (str(day(2)), made["2 second"], made["2 second"]),
    ]
    assert "was published at" in said["dates"][2]["problem"]
    assert [current(root, n) for n in range(3)] == [made["0 first"], made["1 first"], made["2 second"]]
    # Again, it changes nothing.
    log = date_log(store_of(root), "triage", day(0), lease_s=2.0)
    before = len(log.refresh().publications)
    assert main(asked(root, *several)) == 1
    assert "3 dates: 0 went back, 1 could not" in capsys.readouterr().out
    assert len(log.refresh().publications) == before


def test_what_was_current_then_is_what_a_person_had_gone_back_to(dates) -> None:
    root, made, _ = dates
    assert main(asked(root, "--run-date", str(day(0)))) == 0
    then = published_at(root, 0)[-1]
    assert main(asked(root, "--run-date", str(day(0)))) == 0
    assert current(root, 0) == made["0 second"]
    (found,) = go_back(store_of(root), "triage", [day(0)], then, lease_s=2.0)
    assert (found.now, found.problem) == (made["0 first"], "")


def test_a_date_whose_files_are_gone_stays_and_the_others_go_on(dates) -> None:
    root, made, between = dates
    store = store_of(root)
    store.delete(f"{publication_prefix('triage', day(0), made['0 first'])}/summary.json")
    first, second = go_back(store, "triage", [day(0), day(1)], between, lease_s=2.0)
    assert "are gone" in first.problem
    assert (first.now, second.now) == (made["0 second"], made["1 first"])
    listed = publications_of(store, "triage", day(0))
    assert [(one.publication_id, one.files) for one in listed] == [
        (made["0 first"], False),
        (made["0 second"], True),
    ]


def test_what_there_is_and_what_made_it(dates, capsys) -> None:
    root, made, _ = dates
    several = ("--first", str(day(0)), "--last", str(day(2)))
    assert main(asked(root, *several, "--list", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["publication_id"] for row in rows] == [
        made[name] for name in ("0 first", "0 second", "1 first", "1 second", "2 second")
    ]
    assert [row["current"] for row in rows] == [False, True, False, True, True]
    assert {row["release"] for row in rows} == {release()}
    assert {row["engine"] for row in rows} == {"native"}
    assert [row["outputs"] for row in rows] == [2, 3, 2, 3, 1]
    assert main(asked(root, *several, "--list")) == 0
    shown = capsys.readouterr().out
    assert all(row["publication_id"] in shown for row in rows)
    assert release() in shown


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "--run-date: is missing"),
        (f"--first {FIRST}", "--last: is missing"),
        (f"--first {FIRST} --last {day(-1)} --as-of 2026-01-01", f"--last: {day(-1)} is before {FIRST}"),
        (f"--first {FIRST} --last {FIRST}", "--as-of: is missing"),
        (f"--first {FIRST} --last {FIRST} --to x", "--to: names a publication of one date"),
        (f"--run-date {FIRST} --last {FIRST}", "--last: is not used beside --run-date"),
        (f"--run-date {FIRST} --as-of yesterday", "--as-of: 'yesterday' is no time"),
    ],
)
def test_a_wrong_question_is_one_line(tmp_path, capsys, words, line) -> None:
    assert main(asked(tmp_path, *words.split())) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert line in said.err
