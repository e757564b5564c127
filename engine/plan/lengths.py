"""Expected output lengths: the estimators, and the simplest of them.

`fixed` and `logged` are here, `sampled` is `engine.plan.sampled`, `combined` is `engine.plan.length_model`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

UNKNOWN_FRACTION: Final = 0.5
"""Part of `max_tokens` expected where no length at all is known.

Answers end anywhere up to their limit; the middle bounds the relative error on the long side by two. Only the
order of requests depends on it: lengths found too short lead to retractions, never to wrong answers.
"""

OBSERVED: Final = "observed"
WORKLOAD: Final = "workload"
GLOBAL: Final = "global"
MAX_TOKENS: Final = "max_tokens"
SOURCES: Final = (OBSERVED, WORKLOAD, GLOBAL, MAX_TOKENS)
"""Where an estimate comes from, best first."""

SAMPLE: Final = 0.01
"""Part of the requests that is answered first to learn lengths from."""


def fixed_lengths(max_tokens: Int64) -> Float64:
    """Return `UNKNOWN_FRACTION` of the limit of each request, float64 [N], tokens, at least 1."""
    return np.asarray(np.maximum(UNKNOWN_FRACTION * max_tokens, 1.0), np.float64)


def estimate_lengths(
    observed: Float64, max_tokens: Int64, group: Int64
) -> tuple[Float64, npt.NDArray[np.str_]]:
    """Estimate the output tokens of each request.

    A request takes its own observed length; else the mean of the observed lengths of its group; else the mean
    of all observed lengths; else `UNKNOWN_FRACTION` of its `max_tokens`. The result is cut to
    ``1 .. max_tokens``. Means are taken of the lengths as observed, before that cut.

    Parameters
    ----------
    observed
        float64 [N], tokens: length of a logged answer, NaN where unknown.
    max_tokens
        int64 [N], tokens: most output tokens, at least 1.
    group
        int64 [N]: number of the request's group (its workload), any integers.

    Returns
    -------
    (lengths, source)
        float64 [N], tokens; and for each request one of `SOURCES`.

    Raises
    ------
    ValueError
        If the arrays differ in length, a limit is below 1, or an observed length is negative or infinite.
    """
    n = observed.shape[0]
    if max_tokens.shape[0] != n or group.shape[0] != n:
        raise ValueError(f"{n} lengths, {max_tokens.shape[0]} limits and {group.shape[0]} groups")
    known = ~np.isnan(observed)
    if np.any(observed[known] < 0) or np.any(np.isinf(observed)):
        raise ValueError("observed lengths must be finite and not negative")
    if np.any(max_tokens < 1):
        raise ValueError("max_tokens must be at least 1")
    source = np.full(n, 3, np.int64)
    lengths = fixed_lengths(max_tokens)
    if known.any():
        _, member = np.unique(group, return_inverse=True)
        count = np.bincount(member[known], minlength=n)
        total = np.bincount(member[known], weights=observed[known], minlength=n)
        of_group = count[member] > 0
        lengths[:] = observed[known].mean()
        lengths[of_group] = total[member][of_group] / count[member][of_group]
        lengths[known] = observed[known]
        source[:] = 2
        source[of_group] = 1
        source[known] = 0
    return np.clip(lengths, 1.0, max_tokens.astype(np.float64)), np.array(SOURCES)[source]
