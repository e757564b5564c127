"""What step infer of another place is: handed over, watched, ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from tasks.infer.progress import StoppedError


class ComputeFailedError(Exception):
    """What was to compute for a run has failed; the text says why."""


class ComputeCrashedError(StoppedError):
    """What computed for a run has died; what it had answered counts."""


@dataclass(frozen=True, slots=True)
class Handover:
    """All that the computing side is told beside the parameters of the night.

    Attributes
    ----------
    run_key
        Of the run, see CONTRACTS: with job and date it names the run directory.
    attempt
        Id of the attempt that it computes for.
    epoch
        Of the claim in whose place it may claim the run, once.
    """

    run_key: str
    attempt: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ComputeEnd:
    """How something that computes elsewhere has ended, and what it said."""

    kind: Literal["completed", "failed", "cancelled", "crashed"]
    message: str = ""


class ComputeRun(Protocol):
    """Something that computes elsewhere."""

    @property
    def name(self) -> str:
        """What people know it by."""

    def ended(self) -> ComputeEnd | None:
        """Return how it ended; None as long as it has not, or nobody can tell."""

    def cancel(self) -> None:
        """Ask for its end. Whatever hinders that is logged."""
