"""The replicas of a night side by side over time: how much each had in hand, and when it had nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.base.replicas import spans

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl

    Floats = npt.NDArray[np.float64]

BINS: Final = 120
"""Equal stretches of time that lanes are shown in."""


@dataclass(frozen=True)
class Lanes:
    """Several replicas over time.

    Attributes
    ----------
    replicas
        Their numbers: a lane for each.
    edges
        float64 [`BINS` + 1]: of the stretches, seconds since the first step of all.
    running
        float64 [lanes, `BINS`]: requests in a step, on average over a stretch; without a step there are none.
    tails
        (lane, begin, end), seconds: from the last step of a replica to that of the slowest of its attempt.
    """

    replicas: tuple[int, ...]
    edges: Floats
    running: Floats
    tails: tuple[tuple[int, float, float], ...]


def lanes_of(steps: pl.DataFrame) -> Lanes | None:
    """Return the lanes of a run; None if it had one replica, or no steps.

    Parameters
    ----------
    steps
        Rows of the table `steps` in the order of time, with the column `attempt_id`.
    """
    over = spans(steps)
    numbers = over["replica"].unique().sort().to_list()
    if len(numbers) < 2:
        return None
    first, last = float(over["begin"].to_numpy().min()), float(over["end"].to_numpy().max())
    edges = np.linspace(0.0, max(last - first, 1e-6), BINS + 1)
    replica = steps["replica"].fill_null(0).to_numpy()
    begin = steps["started_at"].dt.timestamp("us").to_numpy() / 1e6 - first
    seconds, running = (steps[name].to_numpy().astype(np.float64) for name in ("seconds", "sequences"))
    rows = [
        _mean_over(edges, *(values[replica == number] for values in (begin, seconds, running)))
        for number in numbers
    ]
    tails = tuple(
        (numbers.index(row["replica"]), row["end"] - first, row["end"] - first + row["tail_seconds"])
        for row in over.to_dicts()
        if row["tail_seconds"] > 0.0
    )
    return Lanes(tuple(numbers), edges, np.stack(rows), tails)


def _mean_over(edges: Floats, begin: Floats, seconds: Floats, values: Floats) -> Floats:
    """Return the means over stretches of what has a value during steps and is 0 between them.

    Parameters
    ----------
    edges
        float64 [n + 1].
    begin, seconds, values
        float64 [steps], by `begin`. Of steps that overlap a little the later one begins when the earlier one
        has ended.
    """
    ends = np.maximum.accumulate(begin + seconds)
    starts = np.minimum(np.maximum(begin, np.concatenate(([begin[0]], ends[:-1]))), ends)
    times = np.stack((starts, ends), axis=1).ravel()
    amounts = np.cumsum(np.stack((np.zeros_like(values), values * (ends - starts)), axis=1).ravel())
    done: Floats = np.interp(edges, times, amounts)
    return np.diff(done) / np.diff(edges)
