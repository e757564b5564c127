"""The engines of one attempt as this side knows them: each of their messages goes where it belongs."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from engine.errors import EngineError
from engine.jit import COMPILING
from tasks.infer.answers import AnswerCollector
from tasks.infer.engine_metrics import EngineMetrics
from tasks.infer.progress import InferProgress, StoppedError
from tasks.infer.promises import PromiseWatch
from tasks.plan.plan import FIRST_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.infer.part_writer import PartWriter
    from tasks.infer.progress import Phase
    from tasks.night.night import Night
    from tasks.plan.promises import Forecast
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)


PHASES: Final[tuple[Phase, Phase, Phase]] = ("starting", "compiling", "answering")
"""See `tasks.infer.progress.InferProgress`."""


class EngineSession:
    """Takes in what the engines of this attempt send, one process after the other.

    Attributes
    ----------
    answers, metrics, promises
        What holds the answers, what counts, and what looks whether promises will be kept.
    starts
        Engine processes started.
    replans
        Plans that engines have made anew.
    failure
        Why the present engine would count as dead now; None once it has answered everything.
    ready, said
        Whether the present engine has loaded its model, and whether it has said itself that it cannot go on.
    """

    def __init__(self, night: Night, work: NightWork, writer: PartWriter) -> None:
        self._night, self._work = night, work
        self._writer = writer
        self.answers = AnswerCollector(night, work, writer)
        self.metrics = EngineMetrics(night, work, writer)
        self.promises = PromiseWatch(night, work)
        self.starts = 0
        self.replans = 0
        self.failure: str | None = None
        self.ready = self.said = False
        self._folder = night.scratch / FIRST_FOLDER
        self._begin = self._began_phase = time.monotonic()
        # How long the phases before the first answers took the last time.
        self._took: list[float | None] = [None, None]
        # Seconds that engines have computed, and since when the present one does.
        self._computed = 0.0
        # Before which nothing is computed, as the engine said last.
        self._waits_until: float | None = None
        self._since: float | None = None

    @contextmanager
    def engine_held(self, folder: Path, forecast: Forecast | None = None) -> Iterator[None]:
        """Take note of a new engine process, its folder, and how long it lives: as long as the block.

        `forecast` says when the answers of its plan are expected.
        """
        self.promises.begin(forecast)
        self.starts += 1
        self._folder = folder
        self.ready = self.said = False
        self._began_phase = time.monotonic()
        self.failure = "it ended without a word"
        try:
            with self.metrics.engine_held():
                yield
        finally:
            if self._since is not None:
                self._computed += time.monotonic() - self._since
                self._since = None

    def take(self, message: dict[str, Any]) -> None:
        """Take one message in."""
        self._look_at_phase(message["type"])
        match message["type"]:
            case "compiling":
                log.warning("the engine is %s", COMPILING)
            case "ready":
                self.ready = True
                self.metrics.take_device(message)
            case "answers":
                self._take_answers(message["items"])
            case "refused":
                self.answers.refuse(message["items"])
                self.promises.take_ended(len(message["items"]))
            case "load":
                self._tell_of_waiting(message.get("waits_until"))
                self.metrics.take_load(message)
            case "step":
                self.metrics.take_step(message)
            case "plan":
                self._writer.add_plan(self._folder / message["file"])
                self.replans += 1
            case "done":
                self.failure = None
            case "stopped":
                self.failure = "it was stopped"
            case "fatal":
                self._take_end(message)
            case other:
                raise EngineError(f"the engine sent an unknown message {other!r}; update both sides")
        self.look_at_promises()

    def look_at_promises(self) -> None:
        """Record and tell of promises that are at risk; also called where no message comes."""
        if self._since is None:
            return
        waits = self._waits_until is not None and self._waits_until > time.time()
        for risk in self.promises.look(waits=waits):
            self._writer.add_record(risk)
        self.metrics.take_expectations(self.promises.expectations)

    def _tell_of_waiting(self, until: float | None) -> None:
        if until is not None and until != self._waits_until:
            at = datetime.fromtimestamp(until, UTC).isoformat(timespec="minutes")
            log.warning("the servers may be used from %s; the night waits until then", at)
        self._waits_until = until

    def _take_answers(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            taken = self.answers.take(item)
            if taken is not None:
                self.metrics.take_answered(*taken)
        self.promises.take_ended(len(items))

    def _take_end(self, message: dict[str, Any]) -> None:
        self.said = True
        if message.get("busy"):
            raise StoppedError(f"{message['message']}; run it again when that has ended")
        if not message["retryable"]:
            raise EngineError(message["message"])
        self.failure = message["message"]

    def progress(self) -> InferProgress:
        """Return how far the attempt is."""
        computing = self._computed + (0.0 if self._since is None else time.monotonic() - self._since)
        phase, expected = PHASES[0], self._took[0]
        if self.ready:
            phase, expected = (PHASES[1], self._took[1]) if self._since is None else (PHASES[2], None)
        return InferProgress(
            self._work.done,
            len(self._work.rows),
            self.answers.output_tokens,
            self.seconds(),
            computing,
            phase,
            expected,
            self.promises.at_risk,
        )

    def _look_at_phase(self, kind: str) -> None:
        """Take note of the end of the engine's start, or of its first step."""
        if kind != "ready" and not (self.ready and self._since is None):
            return
        now = time.monotonic()
        self._took[self.ready], self._began_phase = now - self._began_phase, now
        if kind != "ready":
            self._since = now

    def seconds(self) -> float:
        """Return the seconds since the attempt's start."""
        return time.monotonic() - self._begin

    def close(self) -> None:
        """Let go of what is open."""
        self.metrics.close()
