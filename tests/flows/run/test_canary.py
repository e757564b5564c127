"""A candidate that answers a share of a night: one publication, each request once, both sides compared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.parameters.candidate import differences
from flows.parameters.to_request import night_request
from flows.run.sequence import Steps
from tasks.attempt.share import part_of
from tasks.base.errors import ConfigurationError
from tasks.canary.answers import compare_answers, load_scorer
from tasks.canary.stages import StageLog
from tasks.operations.dates import DateStatus, view_date
from tasks.operations.publications import publications_of
from tasks.report.document import Text
from tasks.report.sides import sides
from tasks.runlog import records
from tasks.runlog.places import publication_prefix
from tasks.store.folder import FolderStore
from tests.support import scripted_backend
from tests.support.canary_nights import Behaviour, names, number_of, run, steps_of, write_day
from tests.support.dated_nights import FIRST, day, night_of
from tests.support.tables import Place, place, rows

__all__ = ["place"]
COUNT = 200
DFS = {"canary_option": ["policy=dfs"]}


def answered_by(result: dict[str, Any]) -> Counter[str]:
    table = pq.read_table(Path(result["folder"]) / "outputs.parquet").to_pylist()
    return Counter("night" if row["run_key"] == result["run_key"] else "candidate" for row in table)


def sides_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return pq.read_table(Path(result["folder"]) / "comparisons.parquet").to_pylist()


def test_a_share_is_answered_by_the_candidate_in_one_publication(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST, tenants=COUNT)
    steps = steps_of(Behaviour(speed=2000.0, differing=19))
    given = {"canary": 25, "canary_by": "tenant", "canary_answers": 30, **DFS}
    result = run(tmp_path, FIRST, steps, **given)
    texts, failed = names(result)
    assert (len(texts), failed) == (COUNT, {"tools"})
    by = answered_by(result)
    assert by["night"] + by["candidate"] == COUNT
    assert by["candidate"] == sum(part_of("triage", f"t{i}") < 0.25 for i in range(COUNT))
    assert 0.15 * COUNT < by["candidate"] < 0.35 * COUNT
    baseline, candidate = sides_of(result)
    assert [baseline["side"], candidate["side"]] == ["baseline", "candidate"]
    assert (baseline["outputs"], candidate["outputs"]) == (by["night"], by["candidate"])
    assert (baseline["policy"], candidate["policy"]) == ("auto", "dfs")
    assert candidate["tokens_per_second"] == pytest.approx(2 * baseline["tokens_per_second"])
    assert candidate["compared"] == 30
    # Those whose names are the first of the candidate's.
    table = pq.read_table(Path(result["folder"]) / "outputs.parquet").to_pylist()
    others = [row for row in table if row["run_key"] != result["run_key"]]
    theirs = sorted((row["request_id"], row["custom_id"]) for row in others)
    assert candidate["exact"] == sum(number_of(name) >= 19 for _, name in theirs[:30]) / 30
    assert baseline["exact"] is None
    assert json.loads(candidate["finish_reasons"]) == {"stop": by["candidate"]}
    # One run of the date is to publish; the sides are beside it.
    view = view_date(FolderStore(tmp_path / "store"), "triage", FIRST, lease_s=2.0)
    assert view.status is DateStatus.DONE
    assert sum(one.publishes for one in view.runs) == 1
    # Asked for again, it is the same night.
    again = run(tmp_path, FIRST, steps_of(Behaviour(dies=True)), **given)
    assert again["reused"]
    assert again["publication_id"] == result["publication_id"]


def test_what_the_candidate_cannot_answer_is_answered_as_before(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST)
    result = run(tmp_path, FIRST, steps_of(Behaviour(failing=20)), canary=100, **DFS)
    texts, failed = names(result)
    assert (len(texts), failed) == (COUNT, {"tools"})
    candidate = sides_of(result)[1]
    assert candidate["errors"] > 10
    assert answered_by(result)["night"] == candidate["errors"]


def test_a_candidate_that_dies_costs_nothing_but_its_time(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST)
    result = run(tmp_path, FIRST, steps_of(Behaviour(dies=True)), canary=50, **DFS)
    texts, failed = names(result)
    assert (len(texts), failed) == (COUNT, {"tools"})
    assert sides_of(result)[1]["failure"] == "the engine died"
    assert 0 < answered_by(result)["candidate"] < COUNT / 2


def test_a_candidate_that_answers_everything_leaves_the_engine_of_before_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    write_day(tmp_path, FIRST, 20)
    result = run(tmp_path, FIRST, Steps(), canary=100, report=True, kv_tokens=4096, **DFS)
    assert len(names(result)[0]) == 20
    assert answered_by(result) == {"candidate": 20}
    assert "The candidate" in Path(result["report_file"]).read_text()


def test_a_release_that_knows_no_candidates_reads_such_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_day(tmp_path, FIRST, 20)
    result = run(tmp_path, FIRST, steps_of(Behaviour()), canary_steps="50", **DFS)
    store = FolderStore(tmp_path / "store")
    before = sorted((info.key, store.get(info.key)) for info in store.list("triage/"))
    # As that release reads: stages are records of no kind that it knows.
    monkeypatch.delitem(records._KINDS, "canary_stage")
    assert StageLog(store, "triage").read() == []
    view = view_date(store, "triage", FIRST, lease_s=2.0)
    assert (view.status, view.current.publication_id) == (DateStatus.DONE, result["publication_id"])
    (shown,) = publications_of(store, "triage", FIRST)
    assert (shown.outputs, shown.files) == (20, True)
    assert sorted((info.key, store.get(info.key)) for info in store.list("triage/")) == before


def test_requests_can_be_taken_out_of_such_a_date(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST, 20)
    run(tmp_path, FIRST, steps_of(Behaviour()), canary=50, **DFS)
    store = str(tmp_path / "store")
    typed = ["forget", "--job", "triage", "--store", store, "--custom-id", "r3", "--catalog", "none"]
    assert main(typed) == 0
    current = view_date(FolderStore(tmp_path / "store"), "triage", FIRST, lease_s=2.0).current
    folder = tmp_path / "store" / publication_prefix("triage", FIRST, current.publication_id)
    assert pq.read_table(folder / "outputs.parquet").num_rows == 19
    # What both sides did was said of all requests.
    assert json.loads((folder / "summary.json").read_text())["comparisons"] is None
    assert not [path for path in (tmp_path / "store").rglob("*.jsonl") if '"r3"' in path.read_text()]


def test_a_candidate_that_answers_everything(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST)
    result = run(tmp_path, FIRST, steps_of(Behaviour()), canary=100, **DFS)
    assert names(result)[0].keys() == {f"r{i}" for i in range(COUNT)}
    assert answered_by(result) == {"candidate": COUNT}


@pytest.mark.parametrize("by", ["tenant", "workload"])
def test_a_tenant_or_a_workload_is_on_one_side_whole_every_night(tmp_path: Path, by: str) -> None:
    seen = []
    for when in (FIRST, day(1)):
        write_day(tmp_path, when)
        result = run(tmp_path, when, steps_of(Behaviour()), canary=60, canary_by=by, **DFS)
        table = pq.read_table(Path(result["folder"]) / "outputs.parquet").to_pylist()
        label = {f"r{i}": f"t{i % 7}" if by == "tenant" else f"w{i % 3}" for i in range(COUNT)}
        sides: dict[str, set[bool]] = {}
        for row in table:
            sides.setdefault(label[row["custom_id"]], set()).add(row["run_key"] == result["run_key"])
        assert all(len(found) == 1 for found in sides.values())
        seen.append({name: found.pop() for name, found in sides.items()})
    assert seen[0] == seen[1]
    assert seen[0] == {name: part_of("triage", name) >= 0.6 for name in seen[0]}


def test_the_table_of_the_warehouse_has_what_is_published_and_no_more(place: Place, tmp_path: Path) -> None:
    _, catalog = place
    write_day(tmp_path, FIRST)
    given = {"catalog": catalog}
    run(tmp_path, FIRST, steps_of(Behaviour()), canary=20, **DFS, **given)
    found = rows(place, "comparisons")
    assert found["side"].to_list() == ["baseline", "candidate"]
    assert found["requests"].sum() == COUNT
    # Without a candidate the date has no comparison any more.
    run(tmp_path, FIRST, steps_of(Behaviour()), force=True, **given)
    assert rows(place, "comparisons").is_empty()
    assert rows(place, "outputs").height == COUNT


def test_the_report_shows_both_sides(tmp_path: Path) -> None:
    write_day(tmp_path, FIRST)
    result = run(tmp_path, FIRST, steps_of(Behaviour(failing=5)), canary=40, canary_answers=20, **DFS)
    summary = json.loads(Path(result["summary_file"]).read_text())
    assert [row["side"] for row in summary["comparisons"]] == ["baseline", "candidate"]
    stage = {"by": "rules", "action": "promote", "reason": "good night 2 at 5 %", "percent": 25.0}
    decided = Text("Decided by rules: promote (good night 2 at 5 %); 25 % from the next night on.")
    assert decided in sides(summary["comparisons"], stage)
    back = sides(summary["comparisons"], stage | {"action": "fall back", "percent": 0.0})
    assert any(isinstance(block, Text) and "none of the next night" in block.text for block in back)
    blocks = sides(summary["comparisons"])
    assert "40 % of the requests, by request" in blocks[0].caption
    assert [cells[0].partition(":")[0] for cells in blocks[0].rows] == ["baseline", "candidate"]
    assert any("nothing of the date is missing" in block.text for block in blocks[1:])
    assert any("100.0% equal" in block.text for block in blocks[1:])
    assert sides(()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"canary_option": ["policy=dfs"]}, "--canary: is missing beside --canary-option"),
        ({"canary": 5}, "--canary-option: is missing"),
        ({"canary": 5, "canary_option": ["temperature=1"]}, "--canary-option: one is not of the form"),
        ({"canary": 5, "canary_option": ["policy=dfs", "policy=fcfs"]}, "policy is given twice"),
        ({"canary": 5, "canary_option": ["policy=best"]}, "--policy: 'best' is unknown"),
        ({"canary": 5, "canary_scorer": "a:b", **DFS}, "--canary-answers: is missing beside"),
        ({"canary": 5, "canary_answers": 1, "canary_scorer": "no_such:f", **DFS}, "cannot be loaded"),
        ({"canary": 5, "failed_only": True, **DFS}, "--failed-only: does not go with --canary yet"),
        ({"canary": 0, **DFS}, "--canary: '0'"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, given: dict, said: str) -> None:
    with pytest.raises(ConfigurationError) as found:
        night_request(night_of(tmp_path, run_date=FIRST, **given))
    assert said in str(found.value)


def test_options_of_an_engine_stay_with_it(tmp_path: Path) -> None:
    secret = ["engine=endpoint", "engine_option=url=http://a/v1", "engine_option=key_env=K"]
    assert differences(secret) == {"engine": "endpoint", "engine_option": ["url=http://a/v1", "key_env=K"]}
    parameters = night_of(
        tmp_path, run_date=FIRST, engine="endpoint", engine_option=["url=http://a/v1"], canary=5,
        canary_option=["engine=native"],
    )  # fmt: skip
    candidate = night_request(parameters).canary.candidate
    assert (candidate.settings.engine, candidate.settings.engine_options) == ("native", ())
    assert not candidate.settings.publish


def length_ratio(one: str, other: str) -> float:
    return len(other) / len(one)


def test_answers_are_equal_in_several_ways() -> None:
    ours = {"a": "Yes.", "b": '{"x": 1, "y": [2]}', "c": "left  out", "d": "{}", "only": "here"}
    theirs = {"a": "yes", "b": '{"y":[2],"x":1}', "c": "Left out!", "d": "no", "else": "there"}
    scorer = load_scorer(f"{__name__}:length_ratio")
    found = compare_answers(ours, theirs, scorer)
    assert found["compared"] == 4
    assert (found["exact"], found["normalised"], found["json_equal"]) == (0.0, 0.5, 0.5)
    assert found["score"] == pytest.approx((3 / 4 + 15 / 18 + 9 / 9 + 1) / 4)
    nothing = compare_answers({}, theirs)
    assert nothing == {"compared": 0, "exact": None, "normalised": None, "json_equal": None, "score": None}
    with pytest.raises(ConfigurationError, match="failed with ZeroDivisionError") as told:
        compare_answers({"a": ""}, {"a": "secret"}, scorer)
    assert "secret" not in str(told.value)
