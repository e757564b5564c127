"""Step infer on another machine: what the two sides do to the run, without Prefect between them."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from engine.job.format import read_job
from flows import cli
from flows.compute import compute_handed
from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from flows.run.sequence import Steps, run_night
from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.open import open_night
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.base.errors import ConfigurationError
from tasks.infer.placement.contract import ComputeCrashedError, ComputeEnd, ComputeFailedError
from tasks.infer.placement.handover import infer_elsewhere, wait_for_computing
from tasks.infer.progress import StoppedError
from tasks.plan.plan import FIRST_FOLDER, plan, take_plan
from tasks.runlog.log import NotHandedOverError, RunLog
from tasks.runlog.numbered import NumberedRecords
from tasks.runlog.records import Released
from tasks.store.contract import StoreUnavailableError
from tasks.store.folder import FolderStore
from tests.support.demo_nights import DAY, batch_line, write_lines
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow

COUNT = 6
QUICK = 0.05


@pytest.fixture
def asked(tmp_path) -> NightlyParameters:
    lines = [batch_line(f"c{i}", f"Count from {i} to {i + 4}.", max_tokens=32) for i in range(COUNT)]
    write_lines(tmp_path / "logs", "day.jsonl", lines)
    places = {"source": str(tmp_path / "logs"), "store": str(tmp_path / "store"), "model": str(DEMO_MODEL)}
    settings = {"device": "cpu", "report": False, "catalog": "none", "lease_s": 30, "heartbeat_s": 0.2}
    return NightlyParameters.parse({"job": "triage", "run_date": DAY.isoformat(), **places, **settings})


class Computing:
    """What computes, in a thread; `act` is its work, given the handover."""

    name = "what computes"

    def __init__(self, act) -> None:
        self.act, self.end, self.cancelled, self.handover = act, None, threading.Event(), None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self, handover):
        self.handover = handover
        self.thread.start()
        return self

    def _run(self) -> None:
        try:
            self.act(self.handover)
            self.end = ComputeEnd("completed")
        except NotHandedOverError as error:
            self.end = ComputeEnd("cancelled", str(error))
        except StoppedError as error:
            self.end = ComputeEnd("cancelled", str(error))
        except Exception as error:  # noqa: BLE001 - as a flow run ends with whatever it is
            self.end = ComputeEnd("failed", str(error))

    def ended(self):
        return self.end

    def cancel(self) -> None:
        self.cancelled.set()


def computes(asked, **steps):
    """A machine that computes, with some steps changed."""
    return Computing(lambda handover: compute_handed(asked, handover, steps=replace(Steps(), **steps)))


def night_on(asked, computing: Computing, on_wait=None):
    """Run a night whose step infer is done by `computing`."""

    def infer(night, on_progress):
        return infer_elsewhere(night, computing.start, on_wait or on_progress, poll_s=QUICK)

    try:
        return run_night(night_request(asked), steps=replace(Steps(), infer=infer))
    finally:
        computing.thread.join(60)


def log_of(asked) -> RunLog:
    (run,) = (Path(asked.store) / "triage" / "runs").glob("run_date=*/*")
    log = RunLog(FolderStore(Path(asked.store)), str(run.relative_to(asked.store)))
    log.refresh()
    return log


def endings(asked) -> list[tuple[str, int]]:
    return [(ended.status, ended.exit_code) for ended in log_of(asked).state.endings.values()]


def test_a_night_is_computed_elsewhere_and_published_here(asked):
    computing = computes(asked)
    progress = []
    result = night_on(asked, computing, progress.append)
    assert (result["status"], result["outputs"], result["published"]) == ("Completed", COUNT, True)
    lines = [json.loads(line) for line in Path(result["output_file"]).read_text().splitlines()]
    texts = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in lines}
    assert texts["c3"].strip() == "3 4 5 6 7"
    assert computing.end == ComputeEnd("completed")
    assert {(one.requests, one.output_tokens) for one in progress} == {(COUNT, None)}

    log = log_of(asked)
    assert endings(asked) == [("completed", 0)]
    # Handed over and taken back, under a new claim each time, and never without an owner in between.
    records = NumberedRecords(log.store, f"{log.prefix}/log", 0).read_all()
    claims = [(record.epoch, record.body.params) for record in records if record.kind == "claim"]
    assert claims == [(1, {}), (2, {"handed_epoch": 1}), (3, {})]
    assert [i for i, record in enumerate(records) if isinstance(record.body, Released)] == [len(records) - 1]
    # The order is that of the preparing side, and only the computing side has held a device.
    assert len(log.state.parts_of("plan")) == 1
    infer = log.state.steps["infer"].results
    assert 0 < infer["gpu_seconds_busy"] <= infer["gpu_seconds_held"] <= infer["seconds"]


def test_what_fails_there_fails_the_night_and_is_told_here(asked, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in DEMO_MODEL.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer_config.json").write_text("{}")
    computing = computes(asked.model_copy(update={"model": str(other)}))
    with pytest.raises(ComputeFailedError, match=r"--model: .* holds other files where the run computes"):
        night_on(asked, computing)
    log = log_of(asked)
    assert endings(asked) == [("failed", 1)]
    assert "--model" in log.state.ended.summary["message"]
    assert log.state.holder is None
    assert log.state.epoch == 1
    assert log.state.parts_of("outputs") == []


def test_what_is_stopped_there_stops_the_night_and_stays_told(asked):
    def stopped(night, _progress):
        RunLog(night.store, night.log.prefix).request_stop("another wants the device", by="a/run")
        night.log.refresh()
        raise StoppedError("the run was asked to stop; run it again to go on")

    with pytest.raises(StoppedError, match="asked to stop"):
        night_on(asked, computes(asked, infer=stopped))
    state = log_of(asked).state
    assert endings(asked) == [("stopped", 4)]
    # A backfill goes on after the run that it gave way to: a claim would have taken this away.
    assert state.stop_requested.by == "a/run"
    assert state.holder is None


def test_what_has_died_there_leaves_a_run_that_goes_on(asked):
    def dies(handover):
        log = log_of(asked)
        log.hold_for(handover.epoch).__enter__()

    computing = Computing(dies)
    computing.ended = lambda: None if computing.thread.is_alive() else ComputeEnd("crashed", "killed")
    with pytest.raises(ComputeCrashedError, match="has died"):
        night_on(asked, computing)
    assert endings(asked) == [("stopped", 4)]
    assert log_of(asked).state.holder is None
    with pytest.raises(StoppedError):
        night_on(asked, computes(asked, infer=lambda *_: (_ for _ in ()).throw(StoppedError("enough"))))
    assert len(log_of(asked).state.attempts) == 2


def test_a_cancelled_night_takes_what_computes_along(asked):
    begun, seen = threading.Event(), []

    def until_stopped(night, _progress):
        begun.set()
        while night.log.refresh().stop_requested is None:
            threading.Event().wait(QUICK)
        seen.append(night.log.state.stop_requested.reason)
        raise StoppedError("the run was asked to stop; run it again to go on")

    computing = computes(asked, infer=until_stopped)

    def cancel(_progress):
        if begun.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        night_on(asked, computing, cancel)
    assert computing.cancelled.is_set()
    assert seen == ["the night that it computes for was stopped"]
    assert endings(asked) == [("stopped", 4)]
    assert log_of(asked).state.holder is None


def test_who_comes_too_late_computes_nothing(asked):
    late, over = [], threading.Event()

    def stopped_before(_progress):
        over.set()
        raise KeyboardInterrupt

    def waits_in_a_queue(handover):
        late.append(handover)
        over.wait(30)

    with pytest.raises(KeyboardInterrupt):
        night_on(asked, Computing(waits_in_a_queue), stopped_before)
    computed = []
    steps = replace(Steps(), infer=lambda *_: computed.append(1))
    with pytest.raises(NotHandedOverError):
        compute_handed(asked, late[0], steps=steps)
    # Nor while another night of the same date waits.
    handed = threading.Event()

    def look(_progress):
        if not handed.is_set():
            handed.set()
            with pytest.raises(NotHandedOverError):
                compute_handed(asked, late[0], steps=steps)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        night_on(asked, Computing(lambda _: handed.wait(30)), look)
    assert handed.is_set()
    assert computed == []
    assert endings(asked) == [("stopped", 4)] * 2


def test_a_night_started_again_waits_for_what_still_computes(asked):
    log = log_after_preparing(asked)
    given = log.state.epoch
    other = RunLog(log.store, log.prefix, heartbeat_s=0.2)
    run = Computing(lambda _: None)
    looks = []

    def ended():
        looks.append(1)
        return ComputeEnd("completed") if len(looks) == 3 else None

    run.ended = ended
    with other.hold_for(given, {"flow_run": "x"}):
        assert not wait_for_computing(log, lambda _: None, poll_s=QUICK)
        assert wait_for_computing(
            log, lambda params: run if params["flow_run"] == "x" else None, poll_s=QUICK
        )
    assert len(looks) == 3


def log_after_preparing(asked) -> RunLog:
    """The log of a run whose night has died after its preparation, still claimed by it."""
    request = night_request(asked)
    with TemporaryDirectory() as folder, suppress(StoreUnavailableError):
        inputs = extract_inputs(request, Path(folder))
        with open_night(inputs, request, Path(folder)) as night:
            tokenize_inputs(night, inputs)
            plan(night)
            # A release that does not reach the store is none.
            night.log.append = _unavailable
    return log_of(asked)


def _unavailable(*_):
    raise StoreUnavailableError("gone")


@pytest.mark.parametrize("lengths", ["logged", "combined"])
def test_the_recorded_plan_is_the_plan(asked, tmp_path, lengths):
    request = night_request(asked.model_copy(update={"lengths": lengths}))
    inputs = extract_inputs(request, tmp_path / "scratch")
    with open_night(inputs, request, tmp_path / "scratch") as night:
        tokenize_inputs(night, inputs)
        plan(night)
        made = read_job(night.scratch / FIRST_FOLDER)
        night.scratch = tmp_path / "elsewhere"
        night.scratch.mkdir()
        assert take_plan(night)
        taken = read_job(night.scratch / FIRST_FOLDER)
        # Of another attempt it is not what remains.
        night.attempt = replace(night.attempt, id="another")
        assert not take_plan(night)
    for name in ("settings", "request_ids", "choices", "sampling"):
        assert getattr(taken, name) == getattr(made, name)
    assert (made.replanning is not None) == (taken.replanning is not None) == (lengths == "combined")
    for name in ("tokens", "offsets"):
        assert np.array_equal(getattr(taken, name), getattr(made, name))
    for name, value in vars(made.plan).items():
        assert np.array_equal(getattr(taken.plan, name), value), name
    if made.replanning is not None:
        for name, value in made.replanning.arrays().items():
            np.testing.assert_array_equal(taken.replanning.arrays()[name], value, err_msg=name)


def test_a_gpu_elsewhere_is_not_looked_for_here(asked):
    auto = asked.model_copy(update={"device": "auto", "compute_on": "compute/compute", "kv_dtype": "fp8"})
    settings = night_request(auto).settings
    assert (settings.device, settings.dtype, settings.token_budget) == ("cuda:0", "bfloat16", 2048)
    assert night_request(auto.model_copy(update={"device": "cuda:1"})).settings.device == "cuda:1"


@pytest.mark.usefixtures("prefect_api")
def test_a_deployment_that_is_not_there_is_named(asked):
    from flows.placement.prefect_pool import steps_on

    with pytest.raises(ConfigurationError, match=r"^--compute-on: there is no deployment compute/nowhere\. "):
        steps_on(asked.model_copy(update={"compute_on": "compute/nowhere"}))


def test_without_a_server_nothing_can_be_computed_elsewhere(asked, capsys, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    given = {"job": "triage", "source": asked.source, "store": asked.store, "model": asked.model}
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    code = cli.main(["run", *options, "--run-date", DAY.isoformat(), "--compute-on", "compute/compute"])
    assert code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("nightblend: --compute-on: needs a Prefect server")
    assert not Path(asked.store).exists()
