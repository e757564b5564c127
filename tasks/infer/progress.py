"""How far step infer is, and how it tells that it was stopped: for whoever shows it without running it."""

from __future__ import annotations

from dataclasses import dataclass


class StoppedError(Exception):
    """The step ended early; running it again resumes it."""


class EngineFailedError(Exception):
    """Engines die whatever they compute, or before they compute anything; running it again would not help."""


@dataclass(frozen=True, slots=True)
class InferProgress:
    """How far the step is: requests answered of all, output tokens and seconds of this attempt.

    Of what computes on another machine the tokens are not known.
    """

    answered: int
    requests: int
    output_tokens: int | None
    seconds: float
