"""How far a night is, in words: the same in a terminal and in Prefect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tasks.base.progress import Amount
    from tasks.infer.progress import InferProgress

LONG_S: Final = 5.0
"""A step that takes longer is shown while it goes on."""
DOING: Final = {
    "extract": "reading requests",
    "tokenize": "tokenising prompts",
    "profile": "profiling requests",
    "plan": "planning the order",
    "infer": "answering",
    "publish": "checking and publishing",
}
"""What each step of a night does."""
_PHASES: Final = {
    "starting": "the engine is starting and loads the model",
    "compiling": "the model is loaded, the engine compiles and computes its first step",
}


class Answering:
    """How step `infer` goes, as whoever shows it hears: what an engine is at, and since when."""

    def __init__(self) -> None:
        self._first: InferProgress | None = None
        self._last: InferProgress | None = None
        self._since = 0.0

    @property
    def is_heard_of(self) -> bool:
        """Whether there was any progress."""
        return self._last is not None

    def take(self, progress: InferProgress) -> str | None:
        """Take note of progress; return it in words, or None of an engine that does not answer yet."""
        if self._last is None or self._last.phase != progress.phase:
            self._since = time.monotonic()
        self._last = progress
        if progress.phase != "answering":
            return None
        if self._first is None or progress.seconds < self._first.seconds:
            self._first = progress
        return progress_text(progress, self._first)

    def waiting_text(self) -> str | None:
        """Return what an engine does that does not answer yet; None of one that does."""
        return None if self._last is None else waiting_text(self._last, time.monotonic() - self._since)


def progress_text(progress: InferProgress, first: InferProgress) -> str:
    """Return requests done of all, output tokens per second, and how long the rest takes at this rate.

    Parameters
    ----------
    first
        The first progress of the attempt: what earlier attempts answered says nothing about the rate.
    """
    text = f"{progress.answered:,} of {progress.requests:,} requests answered"
    rate = token_rate(progress)
    if rate is not None:
        text += f", {rate:,.0f} output tokens/s"
    done, seconds = progress.answered - first.answered, _computing(progress) - _computing(first)
    left = progress.requests - progress.answered
    if done > 0 and seconds > 0 and left >= 0:
        text += f", about {duration(left * seconds / done)} to go"
    return text


def token_rate(progress: InferProgress) -> float | None:
    """Return output tokens per second of computing, without the engine's start; None where not known yet."""
    seconds = _computing(progress)
    return progress.output_tokens / seconds if seconds > 0 and progress.output_tokens is not None else None


def waiting_text(progress: InferProgress, seconds: float) -> str | None:
    """Return what an engine does that has not begun to answer; None for one that has.

    Parameters
    ----------
    seconds
        How long it has been doing that.
    """
    doing = _PHASES.get(progress.phase)
    return None if doing is None else so_far(doing, seconds, expected=progress.expected_seconds)


def so_far(doing: str, seconds: float, amount: Amount | None = None, expected: float | None = None) -> str:
    """Return what is done, for how long, how much of it, and how long it still takes where that is known.

    Parameters
    ----------
    expected
        Seconds that it takes by experience.
    """
    text = f"{doing}: {duration(seconds)} so far"
    if amount is not None and amount.total > 0:
        share = share_of(amount)
        text += f", {share:.0%} of {_count(amount)}"
        if share > 0:
            text += f", about {duration(seconds * (1.0 - share) / share)} to go"
    elif expected is not None and expected > seconds:
        text += f", about {duration(expected - seconds)} to go"
    return text


def share_of(amount: Amount) -> float:
    """Return the part that is done, in [0, 1]."""
    return min(1.0, max(0.0, amount.done / amount.total)) if amount.total > 0 else 0.0


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _computing(progress: InferProgress) -> float:
    return progress.seconds if progress.computing_seconds is None else progress.computing_seconds


def _count(amount: Amount) -> str:
    if amount.unit != "bytes":
        return f"{amount.total:,.0f} {amount.unit}"
    size, unit = amount.total, "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.0f} {unit}"
