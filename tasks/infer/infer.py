"""Infer: run the engine over what remains and make its answers durable, part by part.

The engine is a process of its own without storage credentials. If it dies, what it had not sent is planned
again and a new one is started, at most `engine_restarts` times. Whatever ends this step, the answers in hand
are written first, as long as the run is still ours.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.cost.step import DeviceProfile
from engine.errors import EngineError
from tasks.infer.backends.process import engine_process
from tasks.infer.device_counters import DeviceCounters
from tasks.infer.outputs import OutputSink, answer_of
from tasks.infer.reuse import reuse_answers
from tasks.infer.run_totals import run_totals
from tasks.plan.lengths import write_lengths
from tasks.plan.plan import FIRST_FOLDER, write_plan
from tasks.plan.work import load_work, sampling_of
from tasks.publish.output_lines import model_name
from tasks.requests.choices import Choices, sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.infer.prometheus import Exposition
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The step ended early; running it again resumes it."""


@dataclass(frozen=True, slots=True)
class InferProgress:
    """How far the step is: requests answered of all, output tokens and seconds of this attempt.

    Of what computes on another machine the tokens are not known.
    """

    answered: int
    requests: int
    output_tokens: int | None
    seconds: float


class _Session:
    """Takes in what the engines of this attempt send."""

    def __init__(self, night: Night, work: NightWork, sink: OutputSink) -> None:
        self._night, self._work, self._sink = night, work, sink
        self._row_of = {row["request_id"]: i for i, row in enumerate(work.rows)}
        self.choices = Choices()
        self._begin = time.monotonic()
        self.engine_starts = 0
        self.folder = night.scratch / FIRST_FOLDER
        self.replans = 0
        self.output_tokens = 0
        self.peak_running = 0
        self.device: dict[str, Any] = {}
        self.kv_tokens = 0
        self.held_seconds = 0.0
        self.failure: str | None = None
        self._profile: DeviceProfile | None = None
        self._counters: DeviceCounters | None = None
        self._exposition = _exposition(night, work)

    def progress(self) -> InferProgress:
        """Return how far the attempt is."""
        return InferProgress(
            len(self._work.answered), len(self._work.rows), self.output_tokens, self.seconds()
        )

    def seconds(self) -> float:
        """Return the seconds since the attempt's start."""
        return time.monotonic() - self._begin

    def take(self, message: dict[str, Any]) -> None:
        """Take one message in; `failure` says afterwards why the engine would count as dead now."""
        match message["type"]:
            case "ready":
                self.device, self.kv_tokens = message["device"], message["kv_tokens"]
                self._profile = DeviceProfile(**self.device)
                self._counters = DeviceCounters.open(message["device_uuid"])
            case "answers":
                for item in message["items"]:
                    self._take_answer(item)
            case "step":
                self._take_step(message)
            case "plan":
                path = self.folder / message["file"]
                self._night.log.write_part("plan", path, ext="npz", count=0, label="replan")
                self.replans += 1
            case "done":
                self.failure = None
            case "stopped":
                self.failure = "it was stopped"
            case "fatal":
                if not message["retryable"]:
                    raise EngineError(message["message"])
                self.failure = message["message"]
            case other:
                raise EngineError(f"the engine sent an unknown message {other!r}; update both sides")

    @contextmanager
    def engine_held(self, folder: Path) -> Iterator[None]:
        """Take note of a new engine process, its folder, and how long it lives: as long as the block."""
        self.engine_starts += 1
        self.folder = folder
        self.failure = "it ended without a word"
        if self._exposition is not None:
            self._exposition.engine_started()
        begin = time.monotonic()
        try:
            yield
        finally:
            self.held_seconds += time.monotonic() - begin
            if self._counters is not None:
                self._counters.close()
                self._counters = None

    def close(self) -> None:
        """Let go of what is open."""
        if self._exposition is not None:
            self._exposition.close()

    def _take_step(self, message: dict[str, Any]) -> None:
        self._sink.add_step(message)
        self.peak_running = max(self.peak_running, message["running"])
        row = self._counters.poll() if self._counters is not None else None
        if row is not None:
            self._sink.add_device_sample(row)
        if self._exposition is not None:
            open_requests = len(self._work.rows) - len(self._work.answered)
            waiting = max(0, open_requests - message["running"])
            self._exposition.step(message, waiting, self._profile)
            if row is not None:
                self._exposition.device(row)

    def _take_answer(self, item: dict[str, Any]) -> None:
        i = self._row_of[item["request_id"]]
        row, key = self._work.rows[i], self._work.key_of[i]
        settings = sampling_of(self._night, row)
        self.output_tokens += len(item["token_ids"])
        items = self.choices.add(key, item, sequences(settings))
        if items is not None:
            answer = answer_of(items, row["input_tokens"], settings, self._night)
            added = self._sink.add_answer(key, answer)
            if self._exposition is not None:
                self._exposition.answered(answer["finish_reason"], added)


def _exposition(night: Night, work: NightWork) -> Exposition | None:
    """Return the served metrics of the night, if a port was given for them."""
    if night.settings.metrics_port is None:
        return None
    from tasks.infer.prometheus import Exposition

    found = Exposition(model_name=model_name(night.model_dir), nightly=night.job)
    plan = night.log.state.steps.get("plan")
    found.begin(len(work.rows), plan.results.get("hit_rate_optimum") if plan is not None else None)
    found.serve(night.settings.metrics_port)
    return found


def infer(night: Night, on_progress: Callable[[InferProgress], None] | None = None) -> dict[str, Any]:
    """Answer every request of the run that has no durable answer.

    Returns
    -------
    dict
        The results of step `infer`, over all attempts whose parts count.

    Raises
    ------
    StoppedError
        If the run was asked to stop, or the engine died more often than it may be restarted.
    EngineError
        If the engine refuses the job (no restart would help).
    """
    work = load_work(night)
    sink = OutputSink(night, work)
    session = _Session(night, work, sink)
    try:
        reused = reuse_answers(night, work, sink)
        folder = night.scratch / FIRST_FOLDER
        while work.open_keys():
            if session.engine_starts > 0 or reused or not (folder / "job.json").exists():
                folder = night.scratch / f"engine-{session.engine_starts + 1}"
                write_plan(night, work, folder, session.choices)
            failure = _run_engine(night, sink, folder, session, on_progress)
            if failure is None:
                break
            if session.engine_starts > night.settings.engine_restarts:
                raise StoppedError(f"the engine died {session.engine_starts} times, last: {failure}")
            log.warning("the engine died (%s); starting it again", failure)
    finally:
        session.close()
        # Not after losing the run: a stale writer's parts would be refused anyway.
        if night.log.is_holder:
            sink.flush()
    results = {
        **run_totals(night, work, session.device, session.kv_tokens, session.held_seconds),
        "seconds": session.seconds(),
        "peak_running": session.peak_running,
        "kv_tokens": session.kv_tokens,
        "device": session.device,
        "engine_starts": session.engine_starts,
        "replans": session.replans,
        "reused_answers": reused,
    }
    write_lengths(night, work)
    night.log.finish_step("infer", results)
    return results


def _run_engine(
    night: Night,
    sink: OutputSink,
    folder: Path,
    session: _Session,
    on_progress: Callable[[InferProgress], None] | None,
) -> str | None:
    """Run one engine process to its end; return None if it answered everything, else why it died."""
    asked = False
    with session.engine_held(folder), engine_process(folder) as engine:
        try:
            for message in engine.messages:
                session.take(message)
                sink.flush_if_due()
                if on_progress is not None:
                    on_progress(session.progress())
                if night.log.lost:
                    night.log.refresh()
                if night.log.state.stop_requested is not None and not asked:
                    asked = True
                    engine.ask_to_stop()
        except BaseException:
            # Whatever it is: what is answered already is taken in before the engine is gone.
            if night.log.is_holder:
                with suppress(EngineError):
                    for message in engine.last_messages():
                        session.take(message)
            raise
        code = engine.close()
    if asked and session.failure is not None:
        raise StoppedError("the run was asked to stop; run it again to go on")
    if session.failure is not None and code < 0:
        session.failure = f"killed by signal {-code}"
    return session.failure
