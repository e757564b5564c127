"""Fits the cost model to steps that a device took, and tells how far off it is on others."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engine.cost.step import DeviceProfile, ModelShape, step_cost, step_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.arrays import Float64
    from engine.cost.metrics import StepSample

TERMS: Final = ("compute", "memory", "step")
_SEEN: Final = 0.01
"""A term that makes up less than this part of every step is not known from them."""
_SAME: Final = 0.99
_DOUBT: Final = 0.05
"""Relative error of one step that outweighs a GEMM rate in proportion to the rows: few steps say little."""
_MOST_KNOTS, _LEAST_AT_KNOT, _ITERATIONS = 8, 4, 60
_TRUSTED: Final = 0.1
"""Relative error of a step from which on it counts less than by its square."""


class Fit(NamedTuple):
    """A profile, and which of its terms these steps say nothing of (``compute``, ``memory``, ``step``)."""

    profile: DeviceProfile
    unseen: tuple[str, ...]


def fit(steps: Sequence[StepSample], shape: ModelShape, device: DeviceProfile) -> Fit:
    """Fit F, the part of it that GEMMs of few rows reach, W, and a constant per step; no overlap.

    Relative errors count, large ones by their amount only, for other processes make single steps slow.
    First one rate for GEMMs of all sizes; from there, by damped Gauss-Newton steps, one at each of the
    `_knots`, such that more rows are never less efficient and never take less time.
    """
    seconds = np.array([s.seconds for s in steps])
    work = np.array([_work(s) for s in steps], np.float64)
    rows = np.log(np.maximum(work[:, :2], 1.0))
    knots = _knots(rows.reshape(-1))
    gemm = work[:, :2] * (2.0 * shape.body_parameters, 2.0 * shape.head_parameters)
    attention = 4.0 * work[:, 2] * shape.query_size * shape.layers
    moved = (work[:, 3] + work[:, 0]) * shape.kv_bytes_per_token + shape.weight_bytes

    def parts(terms: Float64) -> Float64:
        """Return the compute, memory and constant part of each step, by logarithms of rates and slopes."""
        slower = _slower(knots, terms[3:])
        factor = np.exp(np.interp(rows, knots, slower))
        compute = ((gemm * factor).sum(1) + attention) * np.exp(terms[0])
        return np.column_stack((compute, moved * np.exp(terms[1]), np.full(len(steps), np.exp(terms[2]))))

    simple = _least_squares(np.column_stack((gemm.sum(1) + attention, moved, np.ones(len(steps)))), seconds)
    start = np.concatenate((np.log(simple), np.zeros(knots.size - 1)))

    def residuals(terms: Float64) -> Float64:
        return np.concatenate((parts(terms).sum(1) / seconds - 1.0, _DOUBT * terms[3:]))

    terms = _descend(residuals, start)
    seen = (parts(terms) / seconds[:, None]).max(0) >= _SEEN
    # A rate that is not known is so high that it adds a thousandth to no step.
    high = 1e3 * np.array([((gemm.sum(1) + attention) / seconds).max(), (moved / seconds).max()])
    rates = np.where(seen[:2], np.exp(-terms[:2]), np.maximum(high, (device.flops, device.read_bytes)))
    part = np.exp(-_slower(knots, terms[3:]))
    profile = replace(
        device,
        flops=float(rates[0]),
        read_bytes=float(rates[1]),
        step_seconds=float(np.exp(terms[2])) if seen[2] else 0.0,
        overlaps=False,
        gemm=tuple(zip(np.rint(np.exp(knots)).tolist(), part.tolist(), strict=True))
        if part[0] < _SAME
        else (),
        pair=(),
    )
    return Fit(profile, tuple(name for name, known in zip(TERMS, seen, strict=True) if not known))


def _work(step: StepSample) -> tuple[float, ...]:
    """Return what the cost model takes: tokens, samples, keys that prefill sees, KV that decoding reads."""
    return step.tokens, step.samples, step.attended_tokens - step.kv_tokens_decode, step.kv_tokens_decode


def _knots(rows: Float64) -> Float64:
    """Return logarithms of rows at which the GEMM rate is fitted: both ends of `rows`, and where many are."""
    low, high = rows.min(), rows.max()
    count = int(np.clip(np.floor((high - low) / np.log(2.0)) + 1, 1, _MOST_KNOTS))
    knots = np.log(np.unique(np.rint(np.exp(np.linspace(low, high, count)))))
    near = np.abs(rows[:, None] - knots).argmin(1)
    enough = np.bincount(near, minlength=knots.size) >= _LEAST_AT_KNOT
    enough[[0, -1]] = True
    return np.asarray(knots[enough])


def _slower(knots: Float64, slopes: Float64) -> Float64:
    """Return the logarithm of how much slower than the last knot each is, from slopes in 0 to 1."""
    gaps = slopes * np.diff(knots)
    return np.concatenate((np.cumsum(gaps[::-1])[::-1], [0.0]))


def _least_squares(work: Float64, seconds: Float64) -> Float64:
    """Return seconds per unit of each kind of work, by relative least squares.

    One that would be negative is left out, and then adds a thousandth of the time of an average step.
    """
    design = work / seconds[:, None]
    scale = design.mean(0)
    best, least = np.zeros(scale.size), np.inf
    for count in range(scale.size, 0, -1):
        for columns in itertools.combinations(range(scale.size), count):
            part = design[:, columns] / scale[list(columns)]
            found, *_ = np.linalg.lstsq(part, np.ones(len(seconds)), rcond=None)
            left = float(((part @ found - 1.0) ** 2).sum())
            if (found > 0.0).all() and left < least:
                least, best = left, np.zeros(scale.size)
                best[list(columns)] = found
    return np.asarray(np.maximum(best, 1e-3) / scale)


def _descend(residuals: Callable[[Float64], Float64], terms: Float64) -> Float64:
    """Return the terms of least loss near `terms`; those from the fourth on stay in 0 to 1.

    The loss of a residual is its square, or from `_TRUSTED` on its amount (Huber's).
    """

    def loss(r: Float64) -> float:
        size = np.abs(r)
        return float(np.where(size < _TRUSTED, size**2, 2.0 * _TRUSTED * size - _TRUSTED**2).sum())

    damping, now = 1e-2, residuals(terms)
    for _ in range(_ITERATIONS):
        moved = [residuals(terms + 1e-5 * unit) for unit in np.eye(terms.size)]
        slope = (np.column_stack(moved) - now[:, None]) / 1e-5
        weight = np.minimum(1.0, _TRUSTED / np.maximum(np.abs(now), 1e-12))
        wanted = -slope.T @ (weight * now)
        # A term at its limit that wants to go on stays out of the step, or the others would count on it.
        free = (np.arange(terms.size) < 3) | (np.where(wanted > 0.0, 1.0 - terms, terms) > 0.0)
        normal = slope[:, free].T @ (weight[:, None] * slope[:, free])
        while damping < 1e9:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), wanted[free])
            tried = terms.copy()
            tried[free] += np.clip(step, -1.0, 1.0)
            tried[3:] = np.clip(tried[3:], 0.0, 1.0)
            after = residuals(tried)
            if loss(after) < loss(now):
                break
            damping *= 4.0
        else:
            break
        terms, now, damping = tried, after, max(damping / 8.0, 1e-9)
    return terms


def step_errors(steps: Sequence[StepSample], shape: ModelShape, device: DeviceProfile) -> list[float]:
    """Return the relative errors of the modelled step times."""
    seconds = np.array([s.seconds for s in steps])
    found: list[float] = np.abs(modelled_seconds(steps, shape, device) / seconds - 1.0).tolist()
    return found


def modelled_seconds(steps: Sequence[StepSample], shape: ModelShape, device: DeviceProfile) -> Float64:
    """Return the time of each step by the cost model, float64 [n], seconds."""
    cost = step_cost(shape, device)
    return np.array([step_seconds(cost, *map(float, _work(s))) for s in steps])
