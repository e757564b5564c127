"""What past runs say of the errors of the cost model, as an estimate applies it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Corrections:
    """What past runs say of the model's errors.

    Attributes
    ----------
    factor
        Measured time of the engine's steps over what is modelled of them
        (`tasks.estimate.trust.time_factor`), median.
    error
        Relative error that is left after the correction.
    overhead_seconds
        Of a night beside the engine's steps: loading, reading, writing.
    runs
        How many runs that is from.
    """

    factor: float = 1.0
    error: float | None = None
    overhead_seconds: float = 0.0
    runs: int = 0
