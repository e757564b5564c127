"""Rules for a candidate over ten nights: a better one goes on to everything, one that breaks a limit back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.parameters.to_request import night_request
from tasks.attempt.share import part_of
from tasks.base.errors import ConfigurationError
from tasks.canary.rules import breaches, name_of
from tasks.canary.stages import BACK, GOOD, HELD, PROMOTED, StageLog, begin_night, end_night
from tasks.night.request import Limits, Rules
from tasks.operations.dates import DateStatus, view_date
from tasks.store.folder import FolderStore
from tests.support.canary_nights import Behaviour, names, run, steps_of, write_day
from tests.support.dated_nights import day, night_of

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 300
GIVEN: dict[str, Any] = {
    "canary_steps": "10,40,100",
    "canary_option": ["policy=dfs"],
    # Shares by fixed names, all of which are compared: nothing is left to chance.
    "canary_by": "tenant",
    "canary_answers": COUNT,
    "catalog": "none",
}


def transitions(root: Path) -> list[dict[str, Any]]:
    """The records as DuckDB reads them from the store: nothing of Nightblend reads along."""
    files = f"{root}/store/triage/canary/log/*.json"
    found = duckdb.sql(f"SELECT body.* FROM read_json('{files}', filename = true) ORDER BY filename")
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    return [row | {"run_date": str(row["run_date"])} for row in rows]


def in_share(percent: float) -> int:
    """How many of the requests are in a share by tenant."""
    return sum(part_of("triage", f"t{i}") < percent / 100 for i in range(COUNT))


def candidates_answers(result: dict[str, Any]) -> int:
    """Answers of a publication that were computed by runs whose attempt says that it is a candidate's."""
    table = pq.read_table(Path(result["folder"]) / "outputs.parquet").to_pylist()
    folder = Path(result["run_dir"]).parent
    runs = {row["run_key"] for row in table}
    sides = {run: str(_first_attempt(folder / run / "log").get("side", "")) for run in runs}
    return sum(sides[row["run_key"]].startswith("candidate") for row in table)


def _first_attempt(log: Path) -> dict[str, Any]:
    records = (json.loads(path.read_text()) for path in sorted(log.glob("*.json")))
    return next(record["body"]["params"] for record in records if record["kind"] == "attempt")


def ten_nights(
    root: Path, behaves: Callable[[int], Behaviour], nights: int = 10, **given: Any
) -> list[dict[str, Any]]:
    """Run the nights; every request of each has one result, whatever the candidate does."""
    results = []
    for n in range(nights):
        write_day(root, day(n), COUNT, tenants=COUNT)
        results.append(run(root, day(n), steps_of(behaves(n)), **GIVEN | given))
        texts, failed = names(results[-1])
        assert texts.keys() == {f"r{i}" for i in range(COUNT)}, f"night {n}"
        assert failed == {"tools"}
        view = view_date(FolderStore(root / "store"), "triage", day(n), lease_s=2.0)
        assert view.status is DateStatus.DONE
    return results


def test_a_better_candidate_is_promoted_to_everything(tmp_path: Path) -> None:
    results = ten_nights(tmp_path, lambda _: Behaviour(speed=1500.0))
    shares = [candidates_answers(result) for result in results]
    expected = {percent: in_share(percent) for percent in (10, 40)}
    assert 0.05 * COUNT < expected[10] < 0.15 * COUNT
    assert 0.35 * COUNT < expected[40] < 0.45 * COUNT
    assert shares == [*[expected[10]] * 2, *[expected[40]] * 2, *[COUNT] * 6]
    read = transitions(tmp_path)
    assert [(one["run_date"], one["percent"]) for one in read if one["action"] == "promote"] == [
        (str(day(1)), 40.0),
        (str(day(3)), 100.0),
        (str(day(5)), 100.0),
    ]
    assert [one["percent"] for one in read if one["action"] == "begin"] == [10, 10, 40, 40, *[100] * 6]
    assert read[-1]["stage"] == PROMOTED
    assert results[-1]["canary"]["stage"] == PROMOTED


BAD = {
    "slower": (Behaviour(speed=700.0), "700 tokens/s instead of 1,000"),
    "2 % more errors": (Behaviour(failing=2), "of its requests have no answer, 0.0% of the others"),
    "drifting answers": (Behaviour(differing=30), "answers differ"),
    "longer answers": (Behaviour(tokens=6), "answers of 6.0 tokens instead of 4.0"),
    "dies": (Behaviour(dies=True), "it ended early: the engine died"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_candidate_is_taken_back_within_one_night(tmp_path: Path, name: str) -> None:
    bad, said = BAD[name]
    # It turns bad on its second night.
    given = {"canary_steps": "40,100"}
    results = ten_nights(tmp_path, lambda n: bad if n else Behaviour(), nights=3, **given)
    assert candidates_answers(results[0])
    # Not one of its answers of that night is published, and it has no more nights.
    assert [candidates_answers(result) for result in results[1:]] == [0, 0]
    told = results[1]["canary"]
    assert told["taken_back"]
    assert said in told["reason"]
    (back,) = [one for one in transitions(tmp_path) if one["action"] == "fall back"]
    assert (back["run_date"], back["percent"], back["stage"], back["by"]) == (str(day(1)), 0.0, BACK, "rules")
    assert said in back["reason"]
    # The reason is in the run's log, too.
    logs = Path(results[1]["run_dir"]).parent.glob("*/log/*.json")
    steps = [json.loads(path.read_text())["body"] for path in logs]
    assert any(step.get("name") == "canary" and said in step["results"]["reason"] for step in steps)
    # Asked for again, the night is the same.
    again = run(tmp_path, day(1), steps_of(Behaviour()), **GIVEN | given)
    assert again["publication_id"] == results[1]["publication_id"]
    assert [one["action"] for one in transitions(tmp_path)] == [
        "begin",
        "good night",
        "begin",
        "fall back",
        "begin",
    ]


def commanded(root: Path, *typed: str) -> int:
    return main([typed[0], "--job", "triage", "--store", str(root / "store"), *typed[1:]])


def test_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commanded(tmp_path, "promote") == 2
    assert "--job: no candidate of triage is known" in capsys.readouterr().err
    write_day(tmp_path, day(0), 100, tenants=100)
    run(tmp_path, day(0), steps_of(Behaviour()), **GIVEN)
    assert commanded(tmp_path, "hold", "--reason", "a look first", "--json") == 0
    held = json.loads(capsys.readouterr().out)
    assert (held["stage"], held["percent"], held["by"], held["reason"]) == (
        HELD,
        10.0,
        "person",
        "a look first",
    )
    for n in (1, 2, 3):
        write_day(tmp_path, day(n), 100, tenants=100)
        assert run(tmp_path, day(n), steps_of(Behaviour()), **GIVEN)["canary"]["action"] == GOOD
    assert StageLog(FolderStore(tmp_path / "store"), "triage").read()[-1].percent == 10.0
    assert commanded(tmp_path, "promote") == 0
    assert "policy=dfs gets 40 % of the next night" in capsys.readouterr().out
    assert commanded(tmp_path, "promote", "--percent", "60") == 0
    assert commanded(tmp_path, "fall-back", "--reason", "complaints") == 0
    capsys.readouterr()
    write_day(tmp_path, day(4), 100, tenants=100)
    assert candidates_answers(run(tmp_path, day(4), steps_of(Behaviour()), **GIVEN)) == 0
    assert commanded(tmp_path, "status", "--run-date", str(day(4))) == 0
    assert "policy=dfs, fallen back, 0 %" in capsys.readouterr().out
    assert commanded(tmp_path, "status", "--run-date", str(day(4)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["canary"]["stage"] == BACK
    assert commanded(tmp_path, "promote", "--percent", "0") == 2
    assert "--percent" in capsys.readouterr().err


ROW = {
    **dict.fromkeys(("failure", "compared", "normalised"), None),
    "requests": 100,
    "outputs": 100,
    "errors": 0,
    "tokens_per_second": 100.0,
    "mean_output_tokens": 10.0,
    "spread_output_tokens": 0.0,
}


def test_what_is_too_little_to_judge_by_breaks_no_limit() -> None:
    few = ROW | {"requests": 10, "outputs": 10, "errors": 5, "tokens_per_second": 1.0}
    assert breaches([ROW, few], Limits(), {}) == []
    assert breaches([ROW, ROW | {"requests": 30, "outputs": 29, "errors": 1}], Limits(), {}) == []
    wide = ROW | {"mean_output_tokens": 15.0, "spread_output_tokens": 40.0}
    assert breaches([ROW, wide], Limits(), {}) == []
    assert len(breaches([ROW, wide | {"spread_output_tokens": 5.0}], Limits(), {})) == 1
    # With nothing left for the baseline, it is as it was on an earlier night.
    none = ROW | {"requests": 0, "outputs": 0, "tokens_per_second": None, "mean_output_tokens": None}
    slow = ROW | {"tokens_per_second": 50.0}
    assert breaches([none, slow], Limits(), {}) == []
    assert len(breaches([none, slow], Limits(), {"tokens_per_second": 100.0})) == 1


def test_a_night_without_a_request_in_the_share_is_no_good_night(tmp_path: Path) -> None:
    log, rules = StageLog(FolderStore(tmp_path), "j"), Rules("a", (5.0, 100.0), 2)
    idle = ROW | {"requests": 0, "outputs": 0, "tokens_per_second": None, "mean_output_tokens": None}
    found = []
    for n, candidate in enumerate((ROW, idle, idle, ROW)):
        begin_night(log, rules, day(n))
        stage, taken_back = end_night(log, rules, day(n), [ROW, candidate])
        assert not taken_back
        found.append((stage.action, stage.percent, stage.good_nights))
    assert found == [
        ("good night", 5.0, 1),
        ("idle night", 5.0, 1),
        ("idle night", 5.0, 1),
        ("promote", 100.0, 0),
    ]


def test_two_processes_that_end_the_same_night_make_one_verdict(tmp_path: Path) -> None:
    store, rules = FolderStore(tmp_path), Rules("a", (5.0, 100.0), 1)
    assert begin_night(StageLog(store, "j"), rules, day(0)) == 5.0
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(lambda _: end_night(StageLog(store, "j"), rules, day(0), [ROW, ROW]), range(8)))
    assert {stage.at for stage, _ in ended} == {ended[0][0].at}
    assert [one.action for one in StageLog(store, "j").read()] == ["begin", "promote"]
    # Another candidate begins at the first step, and a date keeps what it began with.
    assert begin_night(StageLog(store, "j"), Rules("b", (7.0,)), day(1)) == 7.0
    assert begin_night(StageLog(store, "j"), rules, day(0)) == 5.0
    assert begin_night(StageLog(store, "j"), rules, day(1)) == 100.0


def test_what_rules_do_not_go_with(tmp_path: Path) -> None:
    for given, said in (
        ({"canary": 5}, "--canary: does not go with --canary-steps"),
        ({"canary_steps": "25,5"}, "25,5 are no rising shares"),
        ({"canary_steps": "5,200"}, "no rising shares"),
        ({"canary_steps": "0,5"}, "no rising shares"),
        ({"canary_steps": "5,,6"}, "--canary-steps"),
    ):
        with pytest.raises(ConfigurationError) as found:
            night_request(night_of(tmp_path, run_date=day(0), **{**GIVEN, **given}))
        assert said in str(found.value)
    # What may be secret is not part of its name.
    assert name_of({"engine": "endpoint", "engine_option": ["url=http://u:p@a/"]}) == (
        'engine=endpoint, engine_option=["url"]'
    )
