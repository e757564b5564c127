"""What the Prefect UI shows while a night runs: a progress bar, and a line in the log now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

from prefect.artifacts import create_progress_artifact, update_progress_artifact

if TYPE_CHECKING:
    import logging
    from uuid import UUID

    from tasks.infer.progress import InferProgress

CALM_S: Final = 10.0
"""Seconds between two updates."""


class FlowReporter:
    """Tells the flow run's log and its progress artifact how a night goes on.

    An API that fails leaves the bar behind, never the night. `beginning` is what the bar says at first.
    """

    def __init__(
        self,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
        job: str,
        beginning: str = "the engine is starting",
    ) -> None:
        self._log, self._job, self._beginning = log, job, beginning
        self._bar: UUID | None = None
        self._told = 0.0
        self._first: InferProgress | None = None

    def begin(self, step: str) -> None:
        """Put up the bar when step `infer` begins."""
        if step == "infer":
            self._told = time.monotonic()
            self._show(0.0, self._beginning)

    def end(self, step: str, results: object) -> None:
        """Complete the bar when step `infer` is done."""
        if step == "infer" and isinstance(results, dict):
            self._show(1.0, f"{results['output_tokens']:,} output tokens in {_duration(results['seconds'])}")

    def answered(self, progress: InferProgress) -> None:
        """Show how far step `infer` is, not more often than every `CALM_S`."""
        if self._first is None:
            self._first = progress
        if time.monotonic() - self._told < CALM_S:
            return
        self._told = time.monotonic()
        text = progress_text(progress, self._first)
        self._log.info(text)
        self._show(progress.answered / progress.requests if progress.requests else 1.0, text)

    def _show(self, share: float, text: str) -> None:
        try:
            if self._bar is None:
                made = create_progress_artifact(100 * share, key=f"progress-{self._job}", description=text)
                self._bar = cast("UUID", made)
            else:
                update_progress_artifact(self._bar, 100 * share, description=text)
        except Exception as error:  # noqa: BLE001 - whatever ails the API, the night goes on
            self._log.warning("progress could not be shown (%s)", type(error).__name__)


def progress_text(progress: InferProgress, first: InferProgress) -> str:
    """Return requests done of all, output tokens per second, and how long the rest takes at this rate.

    Parameters
    ----------
    first
        The first progress of the attempt: what earlier attempts answered says nothing about the rate.
    """
    text = f"{progress.answered:,} of {progress.requests:,} requests answered"
    if progress.seconds > 0 and progress.output_tokens is not None:
        text += f", {progress.output_tokens / progress.seconds:,.0f} output tokens/s"
    done, seconds = progress.answered - first.answered, progress.seconds - first.seconds
    if done > 0 and seconds > 0:
        text += f", about {_duration((progress.requests - progress.answered) * seconds / done)} to go"
    return text


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
