"""The engines of one replica as this side knows them: each of their messages goes where it belongs."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.infer.part_writer import PartWriter
    from tasks.infer.progress import Phase
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)


PHASES: Final[tuple[Phase, Phase, Phase]] = ("starting", "compiling", "answering")
"""See `tasks.infer.progress.InferProgress`."""


class Intake:
    """What takes in what all engines of an attempt send.

    Attributes
    ----------
    answers, metrics, promises
        What holds the answers, what counts, and what looks whether promises will be kept.
    """

    def __init__(self, night: Night, work: NightWork, writer: PartWriter) -> None:
        self.work, self.writer = work, writer
        self.answers = AnswerCollector(night, work, writer)
        self.metrics = EngineMetrics(night, work, writer)
        self.promises = PromiseWatch(night, work)
        self._begin = time.monotonic()

    def look_at_promises(self, *, waits: bool = False) -> None:
        """Record and tell of promises that are at risk; `waits`: no engine may work now."""
        for risk in self.promises.look(waits=waits):
            self.writer.add_record(risk)
        self.metrics.take_expectations(self.promises.expectations)

    def seconds(self) -> float:
        """Return the seconds since the attempt's start."""
        return time.monotonic() - self._begin

    def progress(self, sessions: Sequence[EngineSession]) -> InferProgress:
        """Return how far the attempt is, by the replica that is furthest."""
        phases = [session.phase() for session in sessions]
        phase, expected = max(phases, key=lambda told: PHASES.index(told[0]))
        return InferProgress(
            self.work.done,
            len(self.work.rows),
            self.answers.output_tokens,
            self.seconds(),
            max(session.computing_seconds() for session in sessions),
            phase,
            expected,
            self.promises.at_risk,
        )

    def close(self) -> None:
        """Let go of what is open."""
        self.metrics.close()


class EngineSession:
    """Takes in what the engines of a replica send, one process after the other.

    Attributes
    ----------
    starts
        Engine processes started. The number of the present one is its epoch.
    answered
        Sequences that were answered.
    replans
        Plans that engines have made anew.
    failure
        Why the present engine would count as dead now; None once it has answered everything.
    gives
        Whether the present engine gives requests back when it is asked.
    ready, said
        Whether the present engine has loaded its model, and whether it has said itself that it cannot go on.
    """

    def __init__(self, intake: Intake, replica: int = 0) -> None:
        self._intake, self._replica = intake, replica
        self.starts = 0
        self.answered = 0
        self.replans = 0
        self.failure: str | None = None
        self.ready = self.said = self.gives = False
        self._folder: Path | None = None
        self._began_phase = time.monotonic()
        # How long the phases before the first answers took the last time.
        self._took: list[float | None] = [None, None]
        # Seconds that engines have computed, and since when the present one does.
        self._computed = 0.0
        # Before which nothing is computed, as the engine said last.
        self._waits_until: float | None = None
        self._since: float | None = None

    @contextmanager
    def engine_held(self, folder: Path) -> Iterator[None]:
        """Take note of a new engine process, its folder, and how long it lives: as long as the block."""
        self.starts += 1
        self._folder = folder
        self.ready = self.said = self.gives = False
        self._began_phase = time.monotonic()
        self.failure = "it ended without a word"
        try:
            with self._intake.metrics.engine_held(self._replica):
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
                self.gives = bool(message.get("capabilities", {}).get("gives"))
                self._intake.metrics.take_device(message, self._replica)
            case "answers":
                self._take_answers(message["items"])
            case "refused":
                self._intake.answers.refuse(message["items"])
                self._intake.promises.take_ended(len(message["items"]))
            case "load":
                self._tell_of_waiting(message.get("waits_until"))
                self._intake.metrics.take_load(message, self._replica)
            case "step":
                self._intake.metrics.take_step(message, self._replica)
            case "plan":
                if self._folder is None:
                    raise EngineError("an engine that was not started sent a plan")
                self._intake.writer.add_plan(self._folder / message["file"])
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
        self._intake.look_at_promises(waits=waits)

    def _tell_of_waiting(self, until: float | None) -> None:
        if until is not None and until != self._waits_until:
            at = datetime.fromtimestamp(until, UTC).isoformat(timespec="minutes")
            log.warning("the servers may be used from %s; the night waits until then", at)
        self._waits_until = until

    def _take_answers(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            taken = self._intake.answers.take(item)
            if taken is not None:
                self._intake.metrics.take_answered(*taken)
        self.answered += len(items)
        self._intake.promises.take_ended(len(items))

    def _take_end(self, message: dict[str, Any]) -> None:
        self.said = True
        if message.get("busy"):
            raise StoppedError(f"{message['message']}; run it again when that has ended")
        if not message["retryable"]:
            raise EngineError(message["message"])
        self.failure = message["message"]

    def phase(self) -> tuple[Phase, float | None]:
        """Return what the present engine does, and how long that took the last time."""
        if not self.ready:
            return PHASES[0], self._took[0]
        return (PHASES[1], self._took[1]) if self._since is None else (PHASES[2], None)

    def computing_seconds(self) -> float:
        """Return the seconds in which an engine computed."""
        return self._computed + (0.0 if self._since is None else time.monotonic() - self._since)

    def _look_at_phase(self, kind: str) -> None:
        """Take note of the end of the engine's start, or of its first step."""
        if kind != "ready" and not (self.ready and self._since is None):
            return
        now = time.monotonic()
        self._took[self.ready], self._began_phase = now - self._began_phase, now
        if kind != "ready":
            self._since = now
