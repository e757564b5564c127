"""One engine process at work: its messages become durable parts, metrics and progress."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.cost.step import DeviceProfile
from engine.errors import EngineError
from tasks.infer.device_counters import DeviceCounters
from tasks.infer.part_writer import OutputSink, answer_of
from tasks.infer.progress import InferProgress
from tasks.night.model import model_name
from tasks.plan.plan import FIRST_FOLDER
from tasks.plan.work import sampling_of
from tasks.requests.choices import Choices, sequences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.infer.prometheus import Exposition
    from tasks.night.night import Night
    from tasks.plan.work import NightWork


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
