"""Who is told how a night goes on: what such a one has to have, and one that tells nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tasks.base.progress import Amount
    from tasks.infer.progress import InferProgress


class Reporter(Protocol):
    """Is told how a night goes on, by a thread that does nothing else (`flows.run.aside`)."""

    def begin(self, step: str) -> None:
        """Hear that a step begins."""

    def goes_on(self, step: str, seconds: float, amount: Amount | None) -> None:
        """Hear, about once a second, that a step still goes on, since when, and how far it is if it tells."""

    def end(self, step: str, results: object) -> None:
        """Hear that a step is done, and what it returned."""

    def answered(self, progress: InferProgress) -> None:
        """Hear how far step `infer` is."""


class Silent:
    """Tells nobody."""

    def begin(self, step: str) -> None:
        """Do nothing."""

    def goes_on(self, step: str, seconds: float, amount: Amount | None) -> None:
        """Do nothing."""

    def end(self, step: str, results: object) -> None:
        """Do nothing."""

    def answered(self, progress: InferProgress) -> None:
        """Do nothing."""
