"""What a run log says: the pure fold of its records.

`fold` is a left fold: `fold(a + b) == fold(b, fold(a))`. Nothing but the records goes into it, so whoever
reads the same log knows the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from tasks.base.accounting import ExitCode
from tasks.runlog.records import (
    Attempt,
    AttemptEnded,
    Claim,
    Listed,
    LogRecord,
    Part,
    PromiseAtRisk,
    Published,
    Released,
    Step,
    StopRequested,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RunState:
    """State of a run or of a date.

    Attributes
    ----------
    next_seq
        The number of the next record: how many there are.
    epoch
        Of the last claim; 0 before the first.
    holder
        The record of the last claim until it is released, then None.
    holder_seq
        The number of the last claim.
    stop_requested
        The first request since the last claim.
    attempts
        All of them, oldest first; the last one is the current one.
    begun_at
        When the first of them was opened, or the last fresh one, as its writer's clock said.
    endings
        By attempt id.
    steps
        By name: finished since the last fresh attempt, the last of each name.
    parts
        By name: written since the last fresh attempt, in order; of a kind that a finished step has named its
        parts of, those and what was written later.
    publications
        All of them; the last one is the current one. A fresh attempt does not take them back.
    published_at
        When each of them was published, as its writer's clock said; for people.
    listed
        By run key: its last record that it has listed the source of the date, with the number of the record.
    at_risk
        By tenant: where its promise was first seen to be at risk since the last fresh attempt.
    superseded
        Id of the last fresh attempt, and the steps and parts that it put aside. They count again if it ends
        on a wrong setting before it has computed an answer.
    """

    next_seq: int = 0
    epoch: int = 0
    holder: LogRecord | None = None
    holder_seq: int = 0
    stop_requested: StopRequested | None = None
    attempts: tuple[Attempt, ...] = ()
    begun_at: str | None = None
    endings: Mapping[str, AttemptEnded] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    publications: tuple[Published, ...] = ()
    published_at: tuple[str, ...] = ()
    listed: Mapping[str, tuple[int, Listed]] = field(default_factory=dict)
    superseded: tuple[str, Mapping[str, Step], Mapping[str, Part]] | None = None
    at_risk: Mapping[str, PromiseAtRisk] = field(default_factory=dict)

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def attempt_id(self) -> str:
        """Id of the last attempt, '' before the first."""
        return self.attempts[-1].id if self.attempts else ""

    @property
    def ended(self) -> AttemptEnded | None:
        """How the last attempt ended, or None if it has not."""
        return self.endings.get(self.attempts[-1].id) if self.attempts else None

    @property
    def finished(self) -> bool:
        """Whether the last attempt accounted for every request."""
        return self.ended is not None and self.ended.status in {"completed", "completed_with_errors"}

    @property
    def unended_attempts(self) -> tuple[Attempt, ...]:
        """Attempts without an ending: the running one, and those that were killed."""
        return tuple(attempt for attempt in self.attempts if attempt.id not in self.endings)

    def parts_of(self, kind: str) -> list[Part]:
        """Return the parts of a kind in the order they were written."""
        return [part for part in self.parts.values() if part.kind == kind]


EMPTY = RunState()


def fold(records: Iterable[LogRecord], state: RunState = EMPTY) -> RunState:
    """Return `state` after `records`, which follow it in the log."""
    draft = _Draft(state)
    for record in records:
        draft.apply(record)
    return draft.freeze()


def current_publication(state: RunState) -> Published | None:
    """Return the publication that a date's log points to."""
    return state.publications[-1] if state.publications else None


def describe(state: RunState) -> dict[str, Any]:
    """Return the state as a plain dict for people (`manifest.json`)."""
    kinds = {part.kind for part in state.parts.values()}
    claim = state.holder.body if state.holder else None
    publication = current_publication(state)
    return {
        "note": "A view for people. The truth is in log/; no program reads this file.",
        "records": state.next_seq,
        "epoch": state.epoch,
        "held_by": f"{claim.owner.host} pid {claim.owner.pid}" if isinstance(claim, Claim) else None,
        "held_since": state.holder.at if state.holder else None,
        "stop_requested": state.stop_requested is not None,
        "attempts": [
            {
                "id": attempt.id,
                "fresh": attempt.fresh,
                "policy": attempt.policy,
                "device": attempt.device,
                "status": state.endings[attempt.id].status if attempt.id in state.endings else "unended",
            }
            for attempt in state.attempts
        ],
        "steps": {name: step.results for name, step in state.steps.items()},
        "parts": {
            kind: {
                "files": len(state.parts_of(kind)),
                "count": sum(part.count for part in state.parts_of(kind)),
                "bytes": sum(part.size for part in state.parts_of(kind)),
                "names": [part.name for part in state.parts_of(kind)],
            }
            for kind in sorted(kinds)
        },
        "published": publication.publication_id if publication else None,
    }


_OF_TOKENIZE: Final = frozenset({"requests", "refused", "refused_rows", "tokens", "parts"})
"""Results of step tokenize that earlier versions recorded among those of step extract."""


def _steps_of(step: Step) -> tuple[Step, ...]:
    """Return the steps that a record tells of: two for one of an earlier version, which knew no tokenize."""
    if step.name != "extract" or "parts" not in step.results:
        return (step,)
    tokenized = {name: value for name, value in step.results.items() if name in _OF_TOKENIZE}
    extracted = {name: value for name, value in step.results.items() if name not in tokenized}
    return (replace(step, results=extracted), Step("tokenize", step.attempt_id, tokenized))


class _Draft:
    """A state under construction: folding n records copies the maps once, not n times."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.endings = dict(state.endings)
        self.steps = dict(state.steps)
        self.parts = dict(state.parts)
        self.records = 0

    def freeze(self) -> RunState:
        return replace(
            self.state,
            next_seq=self.state.next_seq + self.records,
            endings=self.endings,
            steps=self.steps,
            parts=self.parts,
        )

    def apply(self, record: LogRecord) -> None:
        self.records += 1
        body = record.body
        if isinstance(body, Claim):
            if record.epoch > self.state.epoch:
                self.state = replace(
                    self.state,
                    epoch=record.epoch,
                    holder=record,
                    holder_seq=self.state.next_seq + self.records - 1,
                    stop_requested=None,
                )
        elif record.epoch == self.state.epoch:
            # A writer of another epoch was refused its number, unless something is broken: it never counts.
            self._apply_current(record)

    def _apply_current(self, record: LogRecord) -> None:
        body = record.body
        match body:
            case Attempt():
                self._open(body, record.at)
            case Step():
                for step in _steps_of(body):
                    self.steps[step.name] = step
                self._settle(body.parts)
            case Part():
                self.parts.setdefault(body.name, body)
            case StopRequested():
                if self.state.stop_requested is None:
                    self.state = replace(self.state, stop_requested=body)
            case AttemptEnded():
                self._end(body)
            case Released():
                self.state = replace(self.state, holder=None)
            case Published():
                self._publish(body, record.at)
            case Listed():
                number = self.state.next_seq + self.records - 1
                listed = {**self.state.listed, body.run_key: (number, body)}
                self.state = replace(self.state, listed=listed)
            case PromiseAtRisk():
                self.state = replace(self.state, at_risk={body.tenant: body, **self.state.at_risk})
            case _:
                pass

    def _publish(self, body: Published, at: str) -> None:
        if current_publication(self.state) != body:
            self.state = replace(
                self.state,
                publications=(*self.state.publications, body),
                published_at=(*self.state.published_at, at),
            )

    def _settle(self, named: Mapping[str, Sequence[str]]) -> None:
        """Let of the kinds of a finished step only those parts count that it names, in its order."""
        if not named:
            return
        written = self.parts
        self.parts = {name: part for name, part in written.items() if part.kind not in named}
        for kind, names in named.items():
            found = (written.get(name) for name in names)
            self.parts.update({part.name: part for part in found if part is not None and part.kind == kind})

    def _open(self, attempt: Attempt, at: str) -> None:
        if any(attempt.id == known.id for known in self.state.attempts):
            return
        first = attempt.fresh or self.state.begun_at is None
        self.state = replace(
            self.state,
            attempts=(*self.state.attempts, attempt),
            begun_at=at if first else self.state.begun_at,
            at_risk={} if attempt.fresh else self.state.at_risk,
        )
        if attempt.fresh:
            before = (attempt.id, dict(self.steps), dict(self.parts))
            self.state = replace(self.state, superseded=before)
            self.steps.clear()
            self.parts.clear()

    def _end(self, ended: AttemptEnded) -> None:
        if ended.attempt_id in self.endings:
            return
        self.endings[ended.attempt_id] = ended
        before = self.state.superseded
        if before is None or before[0] != ended.attempt_id or ended.exit_code != ExitCode.USAGE:
            return
        if not any(part.kind == "outputs" for part in self.parts.values()):
            self.steps, self.parts = dict(before[1]), dict(before[2])
            self.state = replace(self.state, superseded=None)
