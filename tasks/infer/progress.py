"""How far step infer is, and how it tells that it was stopped: for whoever shows it without running it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from tasks.runlog.records import PromiseAtRisk

Phase: TypeAlias = Literal["starting", "compiling", "answering"]


class StoppedError(Exception):
    """The step ended early; running it again resumes it."""


class EngineFailedError(Exception):
    """Engines die whatever they compute, or before they compute anything; running it again would not help."""


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A promise to a tenant that will not be kept if the night goes on as it did until then.

    Attributes
    ----------
    run_date
        Of the night.
    tenant
        Whose requests they are.
    ready_by, expected
        Until when they were to be answered, and when they are expected to be: UTC, ISO 8601.
    answered, requests
        Of the tenant's requests when that was seen.
    """

    run_date: str
    tenant: str
    ready_by: str
    expected: str
    answered: int
    requests: int

    def text(self) -> str:
        """Return it in a line."""
        ready_by, expected = (datetime.fromisoformat(at) for at in (self.ready_by, self.expected))
        late = (expected - ready_by).total_seconds() / 60.0
        return (
            f"the promise to {self.tenant} is at risk: its requests are expected at {expected:%H:%M} UTC, "
            f"{late:,.0f} minutes after {ready_by:%H:%M} UTC; {self.answered:,} of {self.requests:,} are "
            "answered"
        )


def at_risk(run_date: str, seen: PromiseAtRisk) -> AtRisk:
    """Return a promise at risk, as the log of a run has it, for whoever is told."""
    return AtRisk(run_date, seen.tenant, seen.ready_by, seen.expected, seen.answered, seen.requests)


@dataclass(frozen=True, slots=True)
class InferProgress:
    """How far the step is: requests answered of all, output tokens and seconds of this attempt.

    Of what computes on another machine the tokens are not known.

    Attributes
    ----------
    answered, requests
        Of the requests that could be tokenised: those with an answer or an error of this step, and all.
    computing_seconds
        Those of `seconds` in which an engine computed, without its start; None where they are not known.
    phase
        What the present engine does: `starting` until its model is loaded, `compiling` until its first step
        is done, `answering` then.
    expected_seconds
        How long the present phase took the last time; None where it is not known.
    at_risk
        Promises that were seen to be at risk.
    """

    answered: int
    requests: int
    output_tokens: int | None
    seconds: float
    computing_seconds: float | None = None
    phase: Phase = "answering"
    expected_seconds: float | None = None
    at_risk: tuple[AtRisk, ...] = ()
