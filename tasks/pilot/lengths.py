"""Lengths of all answers of a date, learnt from those of a sample of its requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Int64 = npt.NDArray[np.int64]
    Float64 = npt.NDArray[np.float64]

SEED: Final = 0
ENOUGH: Final = 5
"""So many sampled answers of the same limit, and lengths are drawn from them alone."""
SURE: Final = 1.96
"""Standard errors on each side of a mean that hold it in 95 of 100 cases."""
LOGS, LIMITS = "logged lengths, scaled", "limits, scaled"
SAMPLE, NOTHING = "drawn from the sample", "half of the limit"
"""Where the lengths of requests are from that were not sampled."""


@dataclass(frozen=True)
class Learnt:
    """Lengths of all answers.

    Attributes
    ----------
    output
        int32 [N], tokens, at least 1.
    error
        Relative error that their sum may have (`SURE`), from how the sampled ones scatter.
    groups
        For each group: its number, answers, sampled ones, mean tokens in the log (None where one is not
        known) and as answered (None where none is sampled), and where the others' lengths are from.
    """

    output: npt.NDArray[np.int32]
    error: float
    groups: list[tuple[int, int, int, float | None, float | None, str]]


def learn_lengths(measured: Float64, logged: Float64, limit: Int64, group: Int64) -> Learnt:
    """Return the lengths of all answers.

    Those of a group's other requests are their logged lengths, or their limits, in the ratio that the sample
    shows, whichever of them comes closer to the sampled answers; if the mean comes closer than both, they are
    drawn from the sampled ones.

    Parameters
    ----------
    measured, logged
        float64 [N], tokens; NaN where a request was not sampled, or the log has no length.
    limit
        int64 [N], tokens: most output tokens.
    group
        int64 [N]: the workload, any integers.
    """
    rng = np.random.default_rng(SEED)
    output = np.where(np.isnan(measured), 0.0, measured)
    groups, variance = [], 0.0
    for number in np.unique(group).tolist():
        mine = group == number
        sampled, others = (np.flatnonzero(mine & (np.isnan(measured) == wanted)) for wanted in (False, True))
        known, log = measured[sampled], logged[mine]
        where, left = NOTHING, limit[others].astype(np.float64)
        if not len(sampled):
            output[others] = 0.5 * limit[others]
        else:
            left = known - known.mean()
            where = SAMPLE
            for name, by in ((LOGS, logged), (LIMITS, limit.astype(np.float64))):
                if np.isnan(by[mine]).any() or not by[sampled].sum() > 0:
                    continue
                ratio = float(known.sum() / by[sampled].sum())
                off = known - ratio * by[sampled]
                best = np.abs(left).mean()
                if np.abs(off).mean() < best or (where == SAMPLE and np.abs(off).mean() == best):
                    where, left = name, off
                    output[others] = ratio * by[others]
            if where == SAMPLE:
                output[others] = _drawn(known, limit[sampled], limit[others], rng)
            output[others] = np.minimum(output[others], limit[others])
        spread = float(left.std(ddof=1)) if len(left) > 1 else float(np.abs(output[mine]).mean())
        variance += (len(others) * spread) ** 2 / max(len(sampled), 1)
        groups.append(
            (
                number,
                int(mine.sum()),
                len(sampled),
                None if np.isnan(log).any() else float(log.mean()),
                float(known.mean()) if len(sampled) else None,
                where,
            )
        )
    whole = np.maximum(np.rint(output), 1).astype(np.int32)
    return Learnt(whole, SURE * float(np.sqrt(variance)) / max(float(whole.sum(dtype=np.int64)), 1.0), groups)


def _drawn(known: Float64, limits: Int64, wanted: Int64, rng: np.random.Generator) -> Float64:
    """Return float64 [len(wanted)]: lengths of sampled answers, of the same limit where there are enough."""
    found = rng.choice(known, len(wanted))
    for limit in np.unique(wanted).tolist():
        same = known[limits == limit]
        if len(same) >= ENOUGH:
            mine = wanted == limit
            found[mine] = rng.choice(same, int(mine.sum()))
    return np.asarray(found, np.float64)
