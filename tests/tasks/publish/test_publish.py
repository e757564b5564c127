"""A publication holds every request exactly once, and the date's log points to the last one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.base.accounting import Account, AccountingError
from tasks.base.schema import SCHEMAS
from tasks.night.model import model_name
from tasks.profile.profile import profile
from tasks.publish.output_lines import dump_line, output_line
from tasks.publish.publish import NightOfErrorsError, publish
from tasks.publish.summary import answer_lengths
from tasks.runlog.log import RunLog, StaleWriterError
from tasks.runlog.parts import BATCH_BYTES, GROUP_BYTES, GroupedWriter, batches
from tasks.runlog.places import date_prefix, publication_prefix
from tasks.runlog.state import current_publication
from tasks.store.folder import FolderStore
from tests.support.finished_nights import fill
from tests.support.nights import (
    AT,
    DAY,
    INFER,
    error,
    open_test_night,
    output,
    quarantined,
    read_published,
    request,
    rid,
    write,
    write_inputs,
)

if TYPE_CHECKING:
    from tasks.store.contract import Store


def date_state(store: Store) -> Any:
    return RunLog(store, date_prefix("job", DAY.isoformat())).refresh()


def test_a_whole_publication(store: Store, tmp_path: Path) -> None:
    with open_test_night(store, tmp_path / "scratch") as night:
        fill(night)
        results = publish(night)
    prefix = publication_prefix("job", DAY, results["publication_id"])
    found = read_published(store, prefix, tmp_path / "read")
    assert results["folder"] == store.object_uri(prefix)
    assert results["output_file"] == store.object_uri(f"{prefix}/output.jsonl")
    assert results["error_file"] == store.object_uri(f"{prefix}/errors.jsonl")
    expected = {"requests": 5, "outputs": 3, "errors": 2, "quarantined": 1, "filtered": 1, "exit_code": 0}
    assert {name: results[name] for name in expected} == expected
    assert (results["input_tokens"], results["output_tokens"]) == (9, 6)
    assert (results["seconds"], results["tokens_per_second"]) == (2.0, 7.5)
    assert (results["hit_rate"], results["hit_rate_optimum"], results["recomputed_tokens"]) == (0.4, 0.5, 7)
    assert results["run_key"] == "0123456789abcdef"
    summary = found["summary"]
    assert summary["finish_reasons"] == {"length": 1, "stop": 2}
    assert summary["error_codes"] == {"internal_error": 1, "unsupported_parameter": 1}
    assert summary["workloads"]["pick"]["outputs"] == 1
    assert summary["workloads"]["default"]["errors"] == 2
    assert summary["profile"]["requests"] == 4
    assert found["profiles_table"].num_rows == 4
    assert found["steps_table"].num_rows == 1
    (published,) = date_state(store).publications
    assert published.publication_id == results["publication_id"]
    assert published.details["output_file"] == results["output_file"]


def test_lines_have_the_form_of_openai(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "scratch") as night:
        fill(night)
        results = publish(night)
    folder = tmp_path / "store" / publication_prefix("job", DAY, results["publication_id"])
    text = (folder / "output.jsonl").read_text()
    assert len(text.splitlines()) == 3
    a, b, c = map(json.loads, text.splitlines())
    assert a == {
        "id": f"batch_req_{rid('a')[:32]}",
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": rid("a"),
            "body": {
                "id": f"chatcmpl-{rid('a')[:24]}",
                "object": "chat.completion",
                "created": int(AT.timestamp()),
                "model": "tiny",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "yes", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {
                    "prompt_tokens": 3,
                    "completion_tokens": 2,
                    "total_tokens": 5,
                    "prompt_tokens_details": {"cached_tokens": 1},
                },
                "metadata": {"workload": "pick"},
            },
        },
        "error": None,
        "nightblend": {
            "request_id": rid("a"),
            "source_uri": "file:///logs/day.jsonl",
            "source_line": 1,
            "body": {"user": "u"},
            "envelope": {"note": 1},
        },
    }
    assert b["response"]["body"]["choices"][0]["message"]["content"] == "line\u2028"
    assert c["response"]["body"]["object"] == "text_completion"
    assert c["response"]["body"]["choices"][0]["text"] == "yes"
    refused, failed = map(json.loads, (folder / "errors.jsonl").read_text().splitlines())
    assert (refused["custom_id"], refused["response"]) == ("refused", None)
    assert refused["error"] == {
        "code": "unsupported_parameter",
        "message": "No tools.",
        "param": "tools",
        "retryable": False,
    }
    assert failed["error"]["param"] is None


def test_no_reader_sees_another_line_end() -> None:
    text = "x\u0085\u2028\u2029\n\r\x1c"
    line = dump_line(output_line(output("a", text, passthrough_json=None), "m"))
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["response"]["body"]["choices"][0]["message"]["content"] == text


def test_a_number_of_the_sender_keeps_all_its_digits() -> None:
    passed = json.dumps({"body": {"metadata": {"n": 3**80}}})
    line = dump_line(output_line(output("a", "Grüße\u2028", passthrough_json=passed), "m"))
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["response"]["body"]["metadata"] == {"n": 3**80}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 4))
def test_lengths_are_those_of_all_rows(lengths: list[int], parts: int) -> None:
    rows = [
        output(str(i), usage={"prompt_tokens": 1, "completion_tokens": n, "cached_tokens": 0})
        for i, n in enumerate(lengths)
    ]
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{part}.parquet" for part in range(parts)]
        for part, path in enumerate(files):
            pq.write_table(pa.Table.from_pylist(rows[part::parts], schema=SCHEMAS["outputs"]), path)
        found = answer_lengths(files)["default"]
    mean = float(np.mean(lengths))
    assert found == {
        "mean": pytest.approx(mean),
        "p50": pytest.approx(float(np.quantile(lengths, 0.5))),
        "p90": pytest.approx(float(np.quantile(lengths, 0.9))),
        "variation": pytest.approx(float(np.std(lengths)) / mean if mean else 0.0),
    }


@pytest.mark.parametrize("size", [100, 100_000])
def test_small_pieces_become_large_row_groups(size: int, tmp_path: Path) -> None:
    """However long the rows are: few bytes at a time are read, many are a row group."""
    path, copied = tmp_path / "a.parquet", tmp_path / "b.parquet"
    rows = pa.table({"n": range(800), "text": [f"{n:{size}}" for n in range(800)]})
    with GroupedWriter(path, rows.schema) as writer:
        for start in range(0, 800, 50):
            writer.write(rows.slice(start, 50))
    # The column counts beside its text with offsets, so the groups are a little below the limit.
    expected = -(-rows.nbytes // (GROUP_BYTES + 50 * size)) if size > 100 else 1
    assert pq.read_metadata(path).num_row_groups == expected
    with GroupedWriter(copied, rows.schema) as writer:
        for piece in batches(path, rows.schema):
            assert piece.nbytes <= 2 * BATCH_BYTES
            writer.write(piece)
    assert pq.read_table(copied).equals(rows)


def test_a_model_of_the_hub_keeps_its_id() -> None:
    assert model_name(Path("/hub/models--org--name-1b/snapshots/0123abc")) == "org/name-1b"
    assert model_name(Path("/models/mine")) == "mine"


@pytest.mark.parametrize("at_a_time", [2, 250_000])
@pytest.mark.parametrize("wrong", ["twice", "both", "lost", "strange", "count", "quarantine", "lines"])
def test_what_does_not_add_up_is_not_published(
    wrong: str, at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.publish.publish.ID_SHARE", at_a_time)
    store = FolderStore(tmp_path / "store")
    messages = {
        "twice": "1 requests answered more than once",
        "both": "1 requests answered more than once",
        "lost": "1 requests without an answer",
        "strange": "1 requests answered that nobody asked",
        "count": "has 1 rows, recorded were 2",
        "quarantine": "2 lines were quarantined, 1 are recorded",
        "lines": "lines are not",
    }
    account = Account(lines=3, requests=2, quarantined=1)
    if wrong == "quarantine":
        account = Account(lines=4, requests=2, quarantined=2)
    if wrong == "lines":
        account = Account(lines=9, requests=2, quarantined=1)
    with open_test_night(store, tmp_path / "scratch") as night:
        write_inputs(night, [request("a"), request("b")], account)
        write(night, "quarantine", [quarantined(1)])
        write(night, "outputs", [output("a")])
        if wrong != "lost":
            write(night, "outputs", [output("b")], count=2 if wrong == "count" else None)
        if wrong == "twice":
            write(night, "outputs", [output("a", "another text")])
        if wrong == "both":
            write(night, "errors", [error("a")])
        if wrong == "strange":
            write(night, "outputs", [output("z")])
        night.log.finish_step("infer", INFER)
        with pytest.raises(AccountingError, match=messages[wrong]):
            publish(night)
        assert "publish" not in night.log.refresh().steps
    assert list(store.list("job/published/")) == []
    assert date_state(store).publications == ()


def test_a_refused_row_that_is_missing_is_noticed(tmp_path: Path) -> None:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night:
        write_inputs(night, [request("a")], Account(lines=2, requests=2, errors=1))
        write(night, "outputs", [output("a")])
        with pytest.raises(AccountingError, match="2 requests are not 1 outputs"):
            publish(night)


def test_parts_that_no_record_names_do_not_count(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "scratch") as night:
        fill(night)
        stray = store.get(night.log.key(night.parts("outputs")[0].name))
        store.put(night.log.key("outputs/stray.parquet"), stray)
        assert publish(night)["outputs"] == 3


def test_publishing_twice_is_publishing_once(store: Store, tmp_path: Path) -> None:
    with open_test_night(store, tmp_path / "one") as night:
        fill(night)
        first = publish(night)
        assert publish(night) == first
    with open_test_night(store, tmp_path / "two") as night:
        assert publish(night) == first
    assert len(date_state(store).publications) == 1


def test_a_publisher_killed_after_the_commit_is_finished_by_its_successor(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "one") as night:
        fill(night)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunLog, "finish_step", _killed)
            with pytest.raises(KeyboardInterrupt):
                publish(night)
    before = {info.key: store.get(info.key) for info in store.list("job/published/")}
    with open_test_night(store, tmp_path / "two") as night:
        results = publish(night)
        assert "publish" in night.log.state.steps
    assert {info.key: store.get(info.key) for info in store.list("job/published/")} == before
    (published,) = date_state(store).publications
    assert published.publication_id == results["publication_id"]


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_last_of_two_runs_is_current_and_a_date_rolls_back(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    ids = []
    for key in ("a" * 16, "b" * 16):
        with open_test_night(store, tmp_path / key, key) as night:
            fill(night)
            ids.append(publish(night)["publication_id"])
    assert ids[0] != ids[1]
    assert current_publication(date_state(store)).publication_id == ids[1]
    with open_test_night(store, tmp_path / "again", "a" * 16) as night:
        assert publish(night)["publication_id"] == ids[0]
    state = date_state(store)
    assert current_publication(state).publication_id == ids[0]
    assert [found.publication_id for found in state.publications] == [ids[0], ids[1], ids[0]]


def test_two_runs_race_for_a_date(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")

    def run(key: str) -> str:
        with open_test_night(store, tmp_path / key, key) as night:
            fill(night)
            return publish(night)["publication_id"]

    keys = [letter * 16 for letter in "abc"]
    with ThreadPoolExecutor(3) as pool:
        ids = list(pool.map(run, keys))
    state = date_state(store)
    assert sorted(found.publication_id for found in state.publications) == sorted(ids)
    assert state.holder is None
    last = current_publication(state)
    found = read_published(store, publication_prefix("job", DAY, last.publication_id), tmp_path / "read")
    assert found["summary"]["run_key"] == last.run_key


def test_a_run_that_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "scratch") as night:
        fill(night)
        RunLog(store, night.log.prefix).claim(take_over=True)
        with pytest.raises(StaleWriterError):
            publish(night)
    assert date_state(store).publications == ()
    assert date_state(store).holder is None


def test_empty_date(store: Store, tmp_path: Path) -> None:
    with open_test_night(store, tmp_path / "scratch") as night:
        write_inputs(night, [], Account(lines=2, blank=2))
        profile(night)
        results = publish(night)
    prefix = publication_prefix("job", DAY, results["publication_id"])
    found = read_published(store, prefix, tmp_path / "read")
    assert (results["requests"], results["exit_code"], results["status"]) == (0, 0, "Completed")
    assert results["tokens_per_second"] is None
    assert found["output"] == []
    assert found["outputs_table"].schema.names[0] == "request_id"


def test_without_publication_the_results_stay_in_the_run(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "scratch", publish=False) as night:
        fill(night)
        results = publish(night)
        assert publish(night) == results
        prefix = night.log.key("results")
    assert results["published"] is False
    assert results["folder"] == store.object_uri(prefix)
    read_published(store, prefix, tmp_path / "read")
    assert list(store.list("job/dates/")) == []
    with open_test_night(store, tmp_path / "later") as night:
        later = publish(night)
    assert later["publication_id"] == results["publication_id"]
    assert [found.publication_id for found in date_state(store).publications] == [later["publication_id"]]


def test_too_many_bad_rows_are_published_and_said(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "scratch", max_bad_fraction=0.01) as night:
        fill(night)
        results = publish(night)
    assert (results["status"], results["exit_code"]) == ("CompletedWithErrors", 3)
    read_published(store, publication_prefix("job", DAY, results["publication_id"]), tmp_path / "read")


def test_the_reader_itself_notices_a_lost_line(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with open_test_night(store, tmp_path / "scratch") as night:
        fill(night)
        prefix = publication_prefix("job", DAY, publish(night)["publication_id"])
    lines = store.get(f"{prefix}/output.jsonl").splitlines(keepends=True)
    store.put(f"{prefix}/output.jsonl", b"".join(lines[1:]))
    with pytest.raises(AssertionError):
        read_published(store, prefix, tmp_path / "read")


def test_a_resumed_run_counts_the_time_of_all_its_attempts(tmp_path: Path) -> None:
    with open_test_night(FolderStore(tmp_path / "store"), tmp_path / "scratch") as night:
        fill(night)
        night.log.finish_step("infer", INFER | {"seconds": 0.5, "engine_seconds": 3.0})
        results = publish(night)
    assert (results["seconds"], results["tokens_per_second"]) == (3.0, 5.0)


def test_a_night_of_errors_does_not_replace_a_good_publication(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")

    def night_of(good: int, bad: int, run_key: str, **settings: Any) -> str:
        names = [f"r{i}" for i in range(good + bad)]
        with open_test_night(store, tmp_path / run_key, run_key, **settings) as night:
            account = Account(lines=good + bad, requests=good + bad)
            write_inputs(night, [request(name) for name in names], account)
            if good:
                write(night, "outputs", [output(name) for name in names[:good]])
            write(night, "errors", [error(name, code="template_error") for name in names[good:]])
            night.log.finish_step("infer", INFER)
            return str(publish(night)["publication_id"])

    # Where there is nothing to replace it is published: people see what is wrong.
    nothing = night_of(0, 3, "a" * 16)
    good = night_of(19, 1, "b" * 16)
    with pytest.raises(
        NightOfErrorsError, match=rf"19 of 20 rows have no answer \(19 template_error\).*{good}.*--force"
    ):
        night_of(1, 19, "c" * 16)
    current = current_publication(date_state(store))
    assert current is not None
    assert current.publication_id == good != nothing
    # Many errors are not nearly all, and force is force.
    night_of(2, 18, "d" * 16)
    night_of(0, 20, "e" * 16, force=True)
    assert len(date_state(store).publications) == 4
