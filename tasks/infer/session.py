"""The engines of one attempt as this side knows them: each of their messages goes where it belongs."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.jit import COMPILING
from tasks.infer.answers import AnswerCollector
from tasks.infer.engine_metrics import EngineMetrics
from tasks.infer.progress import InferProgress
from tasks.plan.plan import FIRST_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.infer.part_writer import PartWriter
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)


class EngineSession:
    """Takes in what the engines of this attempt send, one process after the other.

    Attributes
    ----------
    answers, metrics
        What holds the answers, and what counts.
    starts
        Engine processes started.
    replans
        Plans that engines have made anew.
    failure
        Why the present engine would count as dead now; None once it has answered everything.
    """

    def __init__(self, night: Night, work: NightWork, writer: PartWriter) -> None:
        self._night, self._work = night, work
        self.answers = AnswerCollector(night, work, writer)
        self.metrics = EngineMetrics(night, work, writer)
        self.starts = 0
        self.replans = 0
        self.failure: str | None = None
        self._folder = night.scratch / FIRST_FOLDER
        self._begin = time.monotonic()

    @contextmanager
    def engine_held(self, folder: Path) -> Iterator[None]:
        """Take note of a new engine process, its folder, and how long it lives: as long as the block."""
        self.starts += 1
        self._folder = folder
        self.failure = "it ended without a word"
        with self.metrics.engine_held():
            yield

    def take(self, message: dict[str, Any]) -> None:
        """Take one message in."""
        match message["type"]:
            case "compiling":
                log.warning("the engine is %s", COMPILING)
            case "ready":
                self.metrics.take_device(message)
            case "answers":
                for item in message["items"]:
                    taken = self.answers.take(item)
                    if taken is not None:
                        self.metrics.take_answered(*taken)
            case "step":
                self.metrics.take_step(message)
            case "plan":
                path = self._folder / message["file"]
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

    def progress(self) -> InferProgress:
        """Return how far the attempt is."""
        answered, requests = len(self._work.answered), len(self._work.rows)
        return InferProgress(answered, requests, self.answers.output_tokens, self.seconds())

    def seconds(self) -> float:
        """Return the seconds since the attempt's start."""
        return time.monotonic() - self._begin

    def close(self) -> None:
        """Let go of what is open."""
        self.metrics.close()
