"""What a side of a night did: its requests, errors, lengths, speed and answers, read from its run log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.runlog.log import RunLog
from tasks.runlog.parts import read_table
from tasks.runlog.places import run_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from tasks.night.night import NightSettings
    from tasks.store.contract import Store


@dataclass(frozen=True)
class SideRun:
    """A side that was run.

    Attributes
    ----------
    failure
        Why it ended early; None if it came to its end.
    """

    run_key: str
    settings: NightSettings
    model: str
    engine_version: str | None
    failure: str | None = None


@dataclass(frozen=True)
class SideResults:
    """What a side did.

    Attributes
    ----------
    answers
        request_id -> text.
    errors
        request_ids without an answer.
    lengths
        Tokens of each answer.
    infer
        Results of its step infer; empty if it did not come so far.
    """

    answers: dict[str, str]
    errors: frozenset[str]
    input_tokens: int
    lengths: tuple[int, ...]
    finish_reasons: dict[str, int]
    infer: dict[str, Any]

    @classmethod
    def of(
        cls, rows: Sequence[Mapping[str, Any]], failed: Iterable[str], infer: Mapping[str, Any] | None = None
    ) -> SideResults:
        """Return what rows of the table outputs, and the requests without an answer, say."""
        return cls(
            {row["request_id"]: row["text"] for row in rows},
            frozenset(failed),
            sum(row["usage"]["prompt_tokens"] for row in rows),
            tuple(row["usage"]["completion_tokens"] for row in rows),
            dict(sorted(Counter(row["finish_reason"] for row in rows).items())),
            dict(infer or {}),
        )

    @property
    def output_tokens(self) -> int:
        """Of all answers."""
        return sum(self.lengths)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens over the time in the engine's steps, else over that of step infer; None if nobody knows."""
        seconds = self.infer.get("engine_seconds") or self.infer.get("seconds")
        worked = self.input_tokens + self.output_tokens
        return worked / seconds if seconds and worked else None


def read_side(store: Store, job: str, run_date: date, run_key: str, folder: Path) -> SideResults:
    """Read what a run has answered itself; answers that it keeps of others are not among them."""
    run_log = RunLog(store, run_prefix(job, run_date.isoformat(), run_key))
    state = run_log.refresh()
    columns = ["request_id", "text", "finish_reason", "usage", "run_key"]
    rows = [
        row
        for row in read_table(run_log, "outputs", folder / run_key, columns).to_pylist()
        if row["run_key"] == run_key
    ]
    failed = read_table(run_log, "errors", folder / run_key, ["request_id"]).column("request_id").to_pylist()
    step = state.steps.get("infer")
    return SideResults.of(rows, failed, None if step is None else step.results)
