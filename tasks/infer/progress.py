"""How far step infer is, and how it tells that it was stopped: for whoever shows it without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["starting", "compiling", "answering"]


class StoppedError(Exception):
    """The step ended early; running it again resumes it."""


class EngineFailedError(Exception):
    """Engines die whatever they compute, or before they compute anything; running it again would not help."""


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
    """

    answered: int
    requests: int
    output_tokens: int | None
    seconds: float
    computing_seconds: float | None = None
    phase: Phase = "answering"
    expected_seconds: float | None = None
