"""What is saved against today, and between which bounds: the same comparison under other assumptions.

Each assumption is changed by itself to both of its bounds. The plan stays the one that was made under the
central assumptions. The effects on the result are taken to be independent, so they are added as squares of
logarithms, below and above apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tasks.estimate.case import EXACT
from tasks.estimate.machine import NOMINAL_ERROR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.estimate.case import Case, Way

LENGTH_ERROR: Final = 0.2
"""Relative error of the mean answer length where the log has lengths; the next night's are not the last's."""
ASSUMED_ERROR: Final = 0.5
"""The same where lengths are assumed."""


@dataclass(frozen=True)
class Range:
    """A figure with its bounds."""

    low: float
    central: float
    high: float


@dataclass(frozen=True)
class Effect:
    """What changing one assumption does.

    Attributes
    ----------
    assumption, change
        What is changed, and to what, in words.
    today, ours
        Seconds over those of the central case.
    """

    assumption: str
    change: str
    today: float
    ours: float

    @property
    def gain(self) -> float:
        """The gain over that of the central case."""
        return self.today / self.ours


def effects(
    case: Case, sample: Case, today: Way, ours: Way, length_error: float, device_error: float
) -> list[Effect]:
    """Return what each changed assumption does to both ways.

    Parameters
    ----------
    case, sample
        The central case, and one of a sample of its requests, on which other lengths are simulated.
    length_error, device_error
        Relative errors of the mean answer length and of what the device achieves.
    """
    return [
        *_lengths(sample, today, ours, length_error),
        *_overlap(case, today, ours),
        *_device(case, today, ours, device_error),
    ]


def _lengths(sample: Case, today: Way, ours: Way, error: float) -> Iterator[Effect]:
    others = [("answer lengths", f"{error:.0%} shorter", sample.other(output_factor=1.0 - error))]
    others.append(("answer lengths", f"{error:.0%} longer", sample.other(output_factor=1.0 + error)))
    others.append(("known lengths", "each answer's length is known", sample.other(lengths=EXACT)))
    for name, change, other in others:
        found = [other.seconds(way) / sample.seconds(way) for way in (today, ours)]
        yield Effect(name, change, *found)


def _overlap(case: Case, today: Way, ours: Way) -> Iterator[Effect]:
    bounds = case.machine.interference
    if bounds is None or not case.machine.overlaps:
        return
    for g, word in ((bounds[0], "better"), (bounds[2], "worse")):
        other = case.with_interference(g)
        found = [other.seconds(way) / case.seconds(way) for way in (today, ours)]
        yield Effect("overlap", f"{word} (g = {g})", *found)


def _device(case: Case, today: Way, ours: Way, error: float) -> Iterator[Effect]:
    device = case.machine.device
    for field, name in (("flops", "arithmetic"), ("read_bytes", "memory")):
        for factor, word in ((1.0 - error, "slower"), (1.0 + error, "faster")):
            other = replace(device, **{field: factor * getattr(device, field)})
            found = [float(case.times(way, other).sum()) / case.seconds(way) for way in (today, ours)]
            yield Effect(name, f"{error:.0%} {word} than assumed", *found)


def spread(values: list[tuple[str, float]]) -> tuple[float, float]:
    """Return the factors below and above 1 of independent changes.

    Parameters
    ----------
    values
        (assumption, factor): of one assumption the lowest and the highest factor count.
    """
    logs: dict[str, list[float]] = {}
    for name, factor in values:
        logs.setdefault(name, [0.0]).append(math.log(factor))
    below = math.sqrt(sum(min(found) ** 2 for found in logs.values()))
    above = math.sqrt(sum(max(found) ** 2 for found in logs.values()))
    return math.exp(-below), math.exp(above)


def gain_range(central: float, found: list[Effect]) -> Range:
    """Return the gain (today's seconds over ours) with its bounds."""
    low, high = spread([(effect.assumption, effect.gain) for effect in found])
    return Range(central * low, central, central * high)


def seconds_range(central: float, found: list[Effect], *, ours: bool) -> Range:
    """Return seconds with their bounds."""
    low, high = spread([(e.assumption, e.ours if ours else e.today) for e in found])
    return Range(central * low, central, central * high)


def device_error_of(measured: bool, known: float | None) -> float:
    """Return the relative error of modelled times: known from past runs, or that of nominal figures."""
    if known is not None:
        return known
    return 0.1 if measured else NOMINAL_ERROR
