"""Past dates one after the other in this process, and what a night catches up with."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, time

import pytest

from flows import cli
from flows.dates import catch_up as catch_up_module
from flows.dates import in_process
from flows.dates.catch_up import catch_up, catching_up
from flows.dates.in_process import backfill_here, run_here
from flows.parameters.backfill import BackfillParameters
from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from flows.views.date_table import STOPPED, entries_of, markdown_of
from tasks.base.errors import ConfigurationError
from tasks.infer import give_way
from tasks.infer.give_way import announced, ask_for_device, holders, machine_place, waits_for
from tasks.infer.placement import here
from tasks.infer.progress import StoppedError
from tasks.operations.backfill import Scope, plan_dates
from tasks.operations.dates import view_date
from tasks.store.open import open_store
from tests.support.dated_nights import SimulatedError, day, instead, night_of, write_day

DAYS = [day(n) for n in range(4)]


@pytest.fixture
def root(tmp_path):
    for when in DAYS:
        write_day(tmp_path, when)
    return tmp_path


def store_of(root):
    return open_store(str(root / "store"))


def status(root, when):
    return view_date(store_of(root), "triage", when, lease_s=2).status.value


def asked(**changed):
    return BackfillParameters.parse({"first": DAYS[0], "last": DAYS[-1]} | changed)


@pytest.fixture
def order(monkeypatch):
    """The dates in the order they are computed, by steps that need no engine."""
    seen = []

    def run(request, *, steps=None, reporter=None):
        found = steps or instead(lambda night: seen.append(night.run_date))
        return run_night(request, steps=found, reporter=reporter)

    monkeypatch.setattr(in_process, "run_night", run)
    return seen


def test_finished_dates_are_skipped_and_the_rest_run_in_order(root, order):
    run_night(night_request(night_of(root, run_date=DAYS[1])), steps=instead())
    result = backfill_here(asked(newest_first=True), night_of(root))
    assert order == [DAYS[3], DAYS[2], DAYS[0]]
    assert (result["to_run"], result["published"], result["exit_code"]) == (3, 3, 0)
    assert [status(root, when) for when in DAYS] == ["done"] * 4
    again = backfill_here(asked(), night_of(root))
    assert (again["to_run"], len(order)) == (0, 3)


def test_a_dry_run_runs_nothing_and_says_what_it_would_cost(root, order):
    run_night(night_request(night_of(root, run_date=DAYS[1])), steps=instead())
    result = backfill_here(asked(dry_run=True, gpu_hour_price=3.6), night_of(root))
    assert order == []
    assert result["seconds"] == pytest.approx(30, rel=0.05)
    assert result["cost"] == pytest.approx(0.03, rel=0.05)
    text = markdown_of(result)
    assert "3 of 4 dates to run" in text
    assert "cost about 0.03" in text
    assert f"| {DAYS[1]} | done | skip | finished |" in text


def test_one_date_that_fails_does_not_keep_the_others(root, order):
    (root / "logs" / DAYS[1].isoformat() / "day.jsonl").write_text('{"a\n{"b\n')
    result = backfill_here(asked(), night_of(root))
    rows = {row["run_date"]: row for row in result["rows"]}
    assert order == [DAYS[0], *DAYS[2:]]
    assert (result["published"], result["failed"], result["exit_code"]) == (3, 1, 1)
    assert rows[DAYS[1].isoformat()]["outcome"] == "failed"
    assert "more than 20%" in rows[DAYS[1].isoformat()]["note"]


def test_a_forced_backfill_that_goes_on_computes_no_date_twice(root, order):
    for when in DAYS:
        run_night(night_request(night_of(root, run_date=when)), steps=instead())
    entries = entries_of(
        plan_dates(Scope(store_of(root), "triage", night_of(root).source, force=True, lease_s=2), DAYS)
    )
    count = []

    def interrupted(_):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(
            night_of(root),
            store_of(root),
            entries,
            asked_by="mine",
            gives_way=True,
            steps=instead(interrupted),
        )
    assert [entry.outcome for entry in entries] == ["published", "published", STOPPED, "waiting"]
    assert status(root, DAYS[2]) == "stopped"
    result = backfill_here(asked(force=True, backfill_id="mine"), night_of(root))
    # The stopped one goes on, the last is forced; the first two were done by this backfill.
    assert order == [DAYS[2], DAYS[3]]
    assert [row["rerun"] for row in result["rows"]] == [False, False, False, True]
    log = view_date(store_of(root), "triage", DAYS[2]).last_run.state
    assert [attempt.fresh for attempt in log.attempts] == [False, True, False]


def test_a_wrong_setting_is_one_line_before_any_date(root, capsys):
    options = ["--job", "triage", "--source", f"{root}/logs/{{run_date}}/", "--store", str(root / "store")]
    days = ["--first", DAYS[0].isoformat(), "--last", DAYS[1].isoformat()]
    for wrong, field in (
        (["--first", "2026-04-01", "--last", "2026-03-01"], "--last"),
        ([*days, "--select", "tuesdays"], "--select"),
        ([*days, "--device", "cuda:99"], "--device"),
        ([*days, "--policy", "fastest"], "--policy"),
        (days[:2], "--last"),
    ):
        assert cli.main(["backfill", *options, "--model", "m", *wrong]) == 2
        said = capsys.readouterr().err.splitlines()
        assert [line.partition(": ")[2].partition(":")[0] for line in said] == [field]
    assert not (root / "store" / "triage").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--parallel", "2"], "--parallel: is not used without --deployment."),
        (["--work-queue", "q"], "--work-queue: is not used without --deployment."),
        (
            ["--deployment", "nightly/dates"],
            "--job: is the deployment's, and is not used beside --deployment.",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(capsys, typed, message):
    days = ["--first", DAYS[0].isoformat(), "--last", DAYS[1].isoformat()]
    assert cli.main(["backfill", *days, "--job", "triage", "--gpu-hour-price", "2.5", *typed]) == 2
    assert capsys.readouterr().err == f"nightblend: {message} Leave it out.\n"


def test_the_price_has_its_earlier_name_too():
    days = {"first": DAYS[0], "last": DAYS[1]}
    assert BackfillParameters.parse({**days, "price_per_gpu_hour": "2.5"}).gpu_hour_price == 2.5
    typed = ["--first", "2026-11-01", "--price-per-gpu-hour", "3"]
    assert cli.load("backfill").make_parser().finish().parse(typed)["gpu_hour_price"] == "3"
    with pytest.raises(ConfigurationError, match="--price-per-gpu-hour"):
        BackfillParameters.parse({**days, "price_per_gpu_hour": 2.5, "gpu_hour_price": 3})


def test_the_command_prints_a_row_for_each_date_or_json(root, order, capsys):
    night = night_of(root)
    options = [
        *("backfill", "--first", DAYS[0].isoformat(), "--last", DAYS[1].isoformat(), "--job", "triage"),
        *("--source", night.source, "--store", night.store, "--model", night.model, "--catalog", "none"),
    ]
    assert cli.main([*options, "--dry-run"]) == 0
    assert "2 of 2 dates to run, about unknown of device time." in capsys.readouterr().out
    assert cli.main([*options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["outcome"] for row in result["rows"]] == ["published", "published"]
    assert order == DAYS[:2]


def night_at(root, when, **changed):
    """A scheduled night on the day after `when`, and its date."""
    night = night_of(root, **changed)
    at = datetime.combine(when, time(1, 30), UTC).replace(day=when.day + 1)
    return night, night_request(night, at).run_date


def test_a_night_catches_up_with_failed_killed_and_missing_dates(root, order):
    run_night(night_request(night_of(root, run_date=DAYS[0])), steps=instead())
    with pytest.raises(SimulatedError):
        run_night(night_request(night_of(root, run_date=DAYS[1])), steps=instead(answers=1))
    night, own = night_at(root, DAYS[3])
    assert own == DAYS[3]
    assert [found.run_date for found in catch_up(night, own)] == [DAYS[1], DAYS[2]]
    with catching_up(night, own):
        assert order == []
        run_night(night_request(night.model_copy(update={"run_date": own})), steps=instead())
    # After its own date, oldest first, and then there is nothing left.
    assert order == [DAYS[1], DAYS[2]]
    assert catch_up(night, own) == []
    assert [status(root, when) for when in DAYS] == ["done"] * 4


def test_a_night_that_fails_still_catches_up_and_a_stopped_one_does_not(root, order):
    night, own = night_at(root, DAYS[1])
    with pytest.raises(KeyboardInterrupt), catching_up(night, own):
        raise KeyboardInterrupt
    with pytest.raises(StoppedError), catching_up(night, own):
        raise StoppedError
    assert order == []
    with pytest.raises(SimulatedError), catching_up(night, own):
        raise SimulatedError
    assert order == [DAYS[0]]


def test_what_hinders_catching_up_does_not_hinder_the_night(root, monkeypatch, caplog):
    night, own = night_at(root, DAYS[2])
    log = root / "store" / "triage" / "runs" / f"run_date={DAYS[0]}" / "aaaaaaaaaaaaaaaa" / "log"
    log.mkdir(parents=True)
    (log / "00000000.json").write_text("damaged")
    with catching_up(night, own) as planned:
        assert planned == []
    assert "the dates before could not be looked at" in caplog.text
    (log / "00000000.json").unlink()

    def fails(*_, **__):
        raise OSError("the server is down")

    monkeypatch.setattr(catch_up_module, "run_here", fails)
    with pytest.raises(SimulatedError), catching_up(night, own):
        raise SimulatedError
    with catching_up(night, own) as planned:
        assert [found.run_date for found in planned] == [DAYS[0], DAYS[1]]
    assert caplog.text.count("the dates before could not be run: failed with OSError") == 2


@pytest.mark.parametrize(
    "changed", [{"catch_up_days": 0}, {"run_date": DAYS[3]}, {"source": "{root}/logs/", "run_date": DAYS[3]}]
)
def test_a_night_for_a_given_date_catches_up_with_nothing(root, changed):
    changed = {
        name: value.format(root=root) if name == "source" else value for name, value in changed.items()
    }
    assert catch_up(night_of(root, **changed), DAYS[3]) == []


# ---- giving way --------------------------------------------------------------------------------------------


def opened(root, when, steps, **changed):
    return run_night(night_request(night_of(root, run_date=when, **changed)), steps=steps)


def test_only_a_run_that_gives_way_is_asked_and_only_by_one_that_does_not(root):
    place = machine_place("cpu")
    heard = []

    def wants(night):
        found = ask_for_device(night, place)
        heard.append(found.prefix if found else None)

    def has(night):
        with announced(night, place):
            opened(root, DAYS[1], instead(wants), give_way=True, rerun=True)
            opened(root, DAYS[2], instead(wants), rerun=True)
            assert [said.run for said, _ in holders(night.store, place, lease_s=2)] == [night.log.prefix]
            assert holders(night.store, "gpu:other", lease_s=2) == []
            asked = night.log.refresh().stop_requested
            heard.append(asked.by if asked else None)

    opened(root, DAYS[0], instead(has))
    assert heard == [None, None, None]
    del heard[:]
    opened(root, DAYS[0], instead(has), give_way=True, rerun=True)
    wanted, given = (
        view_date(store_of(root), "triage", when).last_run.log.prefix for when in (DAYS[2], DAYS[0])
    )
    assert heard == [None, given, wanted]


def test_whoever_waits_for_a_device_asks_again_and_again(root, monkeypatch):
    asked_for, tried = [], []
    monkeypatch.setattr(here, "ask_for_device", lambda _, place: asked_for.append(place))

    def infer(night, _, device, *_places):
        with device:
            return {"said": night.run_date}

    monkeypatch.setattr(here, "infer", infer)
    monkeypatch.setattr(here, "ASK_S", 0.05)

    @contextmanager
    def limit():
        while len(asked_for) < 2:
            threading.Event().wait(0.01)
        tried.append("taken")
        yield
        tried.append("given back")

    def computes(night):
        result = here.infer_here(night, place="gpu:pool", limit=limit())
        assert result == {"said": DAYS[0]}
        assert list(night.store.list(give_way.FOLDER)) == []

    opened(root, DAYS[0], instead(computes))
    assert set(asked_for) == {"gpu:pool"}
    assert tried == ["taken", "given back"]


def test_a_leftover_of_a_killed_run_is_cleared_away(root):
    seen = []
    opened(root, DAYS[0], instead(seen.append))
    night = seen[0]
    left = json.dumps({"run": night.log.prefix, "place": "p", "gives_way": True})
    night.store.put(f"{give_way.FOLDER}/x.json", left.encode())
    assert holders(night.store, "p", lease_s=2) == []
    assert list(night.store.list(give_way.FOLDER)) == []


def test_a_backfill_gives_way_and_goes_on_afterwards(root):
    """Both runs in one process: the night begins while the backfill computes, and ends before it goes on."""
    place = machine_place("cpu")
    events = []

    def urgent():
        def compute(night):
            asked_run = ask_for_device(night, place)
            events.append("asked" if asked_run else "nobody")
            give_way.wait_until_free(asked_run, 30, 0.05)
            events.append("night computes")
            # The backfill waits as long as this run is at work.
            threading.Event().wait(1.5)
            events.append("night is done")

        opened(root, DAYS[3], instead(compute))

    thread = threading.Thread(target=urgent)

    def first_time(night):
        if thread.ident is not None:
            events.append("backfill goes on")
            return
        with announced(night, place):
            thread.start()
            for _ in range(600):
                threading.Event().wait(0.05)
                if night.log.refresh().stop_requested is not None:
                    events.append("backfill stops")
                    raise StoppedError("asked to")

    entries = entries_of(
        plan_dates(Scope(store_of(root), "triage", night_of(root).source, lease_s=2), DAYS[:1])
    )
    run_here(night_of(root), store_of(root), entries, asked_by="b", gives_way=True, steps=instead(first_time))
    thread.join()
    assert sorted(events[:2]) == ["asked", "backfill stops"]
    assert events[2:] == ["night computes", "night is done", "backfill goes on"]
    assert [entry.outcome for entry in entries] == ["published"]
    run = view_date(store_of(root), "triage", DAYS[0]).last_run
    assert [ended.status for ended in run.state.endings.values()] == ["stopped", "completed"]
    assert waits_for(run.log) is None
