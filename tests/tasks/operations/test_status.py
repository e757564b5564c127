"""What `nightblend status` tells, while a run is under way and however it ended."""

from __future__ import annotations

import shlex
import time
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from flows.commands import run as run_command
from flows.commands import status as status_command
from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from flows.run.failures import AbortedError
from flows.run.sequence import run_night
from flows.views.console import rows_of as rows_of_night
from flows.views.status import rows_of
from tasks.base.accounting import AccountingError
from tasks.base.errors import ConfigurationError
from tasks.infer.part_writer import PartWriter
from tasks.operations.status import date_status, overdue, recent_status
from tasks.plan.work import load_work
from tasks.store.open import open_store
from tests.support.dated_nights import FIRST, SimulatedError, answer, day, instead, night_of, write_day
from tests.support.demo_nights import batch_line, write_lines

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def root(tmp_path):
    write_day(tmp_path, day(0), 4)
    return tmp_path


def run(root, steps=None, when=FIRST, **changed):
    return run_night(night_request(night_of(root, run_date=when, **changed)), steps=steps or instead())


def status(root, when=FIRST):
    place = str(root / "store")
    return date_status(open_store(place), "triage", when, store_name=place, lease_s=2)


def parsed(command: str) -> NightlyParameters:
    """What the command line makes of a command that was printed."""
    program, name, *options = shlex.split(command)
    assert (program, name) == ("nightblend", "run")
    given = run_command.make_parser().finish().parse(options)
    return NightlyParameters.parse({n: v for n, v in given.items() if n not in {"as_flow", "json"}})


def test_under_way(root):
    seen = []

    def look(night):
        work = load_work(night)
        writer = PartWriter(night, work)
        key = work.open_keys()[0]
        time.sleep(0.4)
        writer.add_answer(key, answer(night, 3))
        writer.close()
        night.log.request_stop("maintenance")
        seen.append(status(root))

    run(root, instead(look))
    (found,) = seen
    assert (found["status"], found["step"], found["published"]) == ("running", "infer", None)
    assert "pid" in found["owner"]
    assert (found["epoch"], found["attempts"], found["stop_requested"]) == (1, 1, True)
    assert (found["done"], found["total"]) == (1, 4)
    # A quarter took a while, so three quarters take thrice as long.
    assert found["part_age_s"] < 60
    assert found["eta_s"] >= 3 * 0.4 - found["part_age_s"] - 0.1
    assert found["silence_s"] <= 2
    assert found["next_command"].startswith("nightblend status --job triage")


def test_after_a_failure_the_next_command_asks_for_the_same_again(root):
    options = {"max_tokens": 9, "temperature": 0.5, "model_filter": ["m", "a b"], "policy": "dfs"}
    with pytest.raises(SimulatedError):
        run(root, instead(answers=1), rerun=True, take_over=True, **options)
    found = status(root)
    assert (found["status"], found["done"], found["last_error"]) == ("failed", 1, "SimulatedError")
    again = parsed(found["next_command"])
    assert again == night_of(root, run_date=day(0), **options)
    assert (again.rerun, again.take_over) == (False, False)
    run_night(night_request(again), steps=instead())
    found = status(root)
    assert (found["status"], found["last_error"], found["done"]) == ("done", None, 4)
    assert found["output_file"].endswith("output.jsonl")
    assert found["next_command"].startswith("nightblend inspect ")


def test_errors_that_are_ours_are_told_in_their_words_others_by_their_type(root):
    def wrong(_):
        raise ConfigurationError("--kv-tokens", "16 is too small", "Raise it")

    with pytest.raises(ConfigurationError):
        run(root, instead(wrong))
    assert status(root)["last_error"] == "ConfigurationError: --kv-tokens: 16 is too small. Raise it."

    def secret(_):
        raise ValueError("the prompt was: my password")

    with pytest.raises(ValueError, match="password"):
        run(root, instead(secret))
    assert status(root)["last_error"] == "ValueError"


def test_a_date_without_a_run_is_run_like_the_last_night(root):
    assert status(root)["next_command"] is None
    run(root, top_k=3)
    found = status(root, day(1))
    assert (found["status"], found["attempts"], found["run_dir"]) == ("missing", 0, None)
    assert parsed(found["next_command"]) == night_of(root, run_date=day(1), top_k=3)


def test_a_wrong_setting_of_a_rerun_loses_nothing(root):
    first = run(root)

    def wrong(_):
        raise ConfigurationError("--kv-tokens", "16 is too small", "Raise it")

    with pytest.raises(ConfigurationError):
        run(root, instead(wrong), rerun=True)
    found = status(root)
    assert (found["status"], found["done"]) == ("failed", 4)

    def never(_):
        raise AssertionError("everything is answered")

    again = run(root, instead(never))
    assert again["publication_id"] == first["publication_id"]
    assert status(root)["status"] == "done"


def test_recent_dates_newest_first(root):
    run(root)
    views = recent_status(open_store(str(root / "store")), "triage", day(1), days=3)
    assert [(view.run_date, view.status.value) for view in views] == [
        (day(1), "missing"),
        (day(0), "done"),
        (day(-1), "missing"),
    ]


@pytest.mark.parametrize(
    ("now", "due"),
    [
        # Published is 2026-03-27; the clock changes in the night to the 29th.
        (datetime(2026, 3, 28, 6, 59, tzinfo=BERLIN), date(2026, 3, 26)),
        (datetime(2026, 3, 28, 7, 0, tzinfo=BERLIN), None),
        (datetime(2026, 3, 29, 6, 59, tzinfo=BERLIN), None),
        (datetime(2026, 3, 29, 7, 0, tzinfo=BERLIN), date(2026, 3, 28)),
        (datetime(2026, 3, 29, 23, 59, tzinfo=BERLIN), date(2026, 3, 28)),
        (datetime(2026, 3, 30, 0, 1, tzinfo=BERLIN), date(2026, 3, 28)),
        (datetime(2026, 3, 30, 7, 0, tzinfo=BERLIN), date(2026, 3, 29)),
    ],
)
def test_silence_is_noticed_at_the_time_of_day(root, now, due):
    run(root)
    store = open_store(str(root / "store"))
    assert overdue(store, "triage", now=now, ready_by="07:00", timezone="Europe/Berlin") == due


def write_bad_rows(root, good, broken):
    lines = [batch_line(f"g{i}", f"Count from {i} to 9.", max_tokens=8) for i in range(good)]
    lines += [batch_line(f"t{i}", "x", tools=[{"type": "function"}]) for i in range(2)]
    lines += ["{broken"] * broken
    write_lines(root / "logs" / FIRST.isoformat(), "day.jsonl", lines)


def test_bad_rows_are_told_by_code_with_a_place_and_the_exit_code(root):
    write_bad_rows(root, good=7, broken=1)
    result = run(root)
    found = status(root)
    assert (found["status"], found["exit_code"], found["aborted"]) == ("done", 3, False)
    names = ("requests", "outputs", "errors", "quarantined")
    assert [found[name] for name in names] == [result[name] for name in names] == [9, 7, 2, 1]
    where = f"{root}/logs/{FIRST}/day.jsonl"
    expected = [
        {"kind": "error", "code": "unsupported_parameter", "count": 2, "source_line": 8},
        {"kind": "quarantine", "code": "invalid_json", "count": 1, "source_line": 10},
    ]
    assert found["bad_rows"] == [{**one, "source_uri": f"file://{where}"} for one in expected]
    shown = dict(rows_of(found))
    assert shown["errors"] == f"2: 2 unsupported_parameter, first at {where}:8"
    assert shown["quarantine"] == f"1: 1 invalid_json, first at {where}:10"
    assert shown["exit code"] == "3 (published, with more bad rows than allowed)"
    table = dict(rows_of_night(result))
    assert table["error codes"] == f"2 unsupported_parameter, first at {where}:8"
    assert table["exit code"] == shown["exit code"]
    report = next((root / "store").rglob("report.md")).read_text().replace("\\", "")
    assert f"| error | unsupported_parameter | {where}:8 | 2 |" in report


def test_an_aborted_night_does_not_go_on(root):
    write_bad_rows(root, good=1, broken=7)
    with pytest.raises(AbortedError):
        run(root)
    found = status(root)
    assert (found["status"], found["exit_code"], found["aborted"]) == ("failed", 1, True)
    assert [found[name] for name in ("errors", "quarantined")] == [2, 7]
    assert [row["code"] for row in found["bad_rows"]] == ["unsupported_parameter", "invalid_json"]
    assert "goes on" not in found["next"]
    assert "once the source is corrected" in found["next"]


@pytest.mark.parametrize(
    ("option", "given", "shown"),
    [("--top-k", {"top_k": 3}, "--top-k TOP_K"), ("--kv-tokens", {}, "--kv-tokens KV_TOKENS")],
)
def test_a_command_with_a_wrong_setting_is_not_repeated(root, option, given, shown):
    def wrong(_):
        raise ConfigurationError(option, "is too small", "Raise it")

    with pytest.raises(ConfigurationError):
        run(root, instead(wrong), **given)
    found = status(root)
    assert found["exit_code"] == 2
    assert shown in found["next_command"]
    assert option in found["next"]
    with pytest.raises(ConfigurationError):
        parsed(found["next_command"])


def test_what_failed_for_good_is_not_called_resumable(root):
    def lost(_):
        raise AccountingError("1 requests answered more than once")

    with pytest.raises(AccountingError):
        run(root, instead(lost))
    found = status(root)
    assert "goes on" not in found["next"]
    assert parsed(found["next_command"]).rerun is True


@pytest.mark.parametrize(
    ("job", "place", "said"),
    [
        ("other", "store", "--job: .* holds nothing of 'other'. Jobs there are triage"),
        ("triage", "no", "--store: "),
    ],
)
def test_an_unknown_job_or_store_is_an_error(root, job, place, said):
    run(root)
    options = ["--job", job, "--store", str(root / place), "--run-date", FIRST.isoformat(), "--json"]
    with pytest.raises(ConfigurationError, match=said):
        status_command.execute(status_command.make_parser().finish().parse(options))
    assert not (root / "no").exists()
