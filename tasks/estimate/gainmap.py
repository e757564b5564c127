"""The gain over density and sharing in closed form, and where it vanishes.

Seconds of KV reads M, of compute after sharing C = density * M, of weight reads w M, and s the part of the
compute that sharing saves; today's order keeps a part k of s. Then

    today = max(C (1 - k s) / (1 - s), w M) + M                     one after the other
    ours  = min(max(C, w M) + M, max(pair(max(C, 2 w M), M), (1 + 2 w) M))    side by side

with ``w = weight bytes / (occupied KV bytes)``, as `engine.simulate.clock` has it. What is above 1 is
scaled so that the gain at the workload's own place is the simulated one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.cost.step import pair_seconds
from engine.simulate.clock import HALVES

if TYPE_CHECKING:
    from engine.cost.step import StepCost
    from tasks.estimate.machine import Machine

DENSITIES: Final = tuple(float(x) for x in np.geomspace(0.05, 50.0, 31))
SHARINGS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
OCCUPANCY: Final = 0.85
SMALL: Final = 1.05
"""Below this gain the effort is not worth it."""
MOST_SCALE: Final = 1.5


@dataclass(frozen=True)
class GainMap:
    """Gains over density and sharing.

    Attributes
    ----------
    gains
        ``gains[i][j]`` at ``SHARINGS[i]``, ``DENSITIES[j]``.
    density, sharing
        Of the workload.
    closed, simulated
        The gain at its place in closed form before scaling, and as simulated.
    kept
        k, the part of the sharing that today's order keeps.
    vanishes
        At the workload's sharing: densities (low, high) between which the gain is below `SMALL`; the ends of
        the map where it goes on.
    """

    gains: list[list[float]]
    density: float
    sharing: float
    closed: float
    simulated: float
    kept: float
    vanishes: list[tuple[float, float]]


def make_map(
    machine: Machine, cost: StepCost, density: float, sharing: float, kept: float, simulated: float
) -> GainMap:
    """Return the map of a machine through a workload's simulated gain; `cost` is with overlap, if any."""

    def closed(rho: float, s: float) -> float:
        return closed_gain(machine, cost, rho, s, kept)

    own = closed(density, sharing)
    scale = min(max((simulated - 1.0) / (own - 1.0), 0.0), MOST_SCALE) if own > 1.0 else 1.0

    def gain(rho: float, s: float) -> float:
        return 1.0 + scale * (closed(rho, s) - 1.0)

    small = [rho for rho in DENSITIES if gain(rho, sharing) < SMALL]
    return GainMap(
        [[gain(rho, s) for rho in DENSITIES] for s in SHARINGS],
        density,
        sharing,
        own,
        simulated,
        kept,
        _intervals(small),
    )


def closed_gain(machine: Machine, cost: StepCost, density: float, sharing: float, kept: float) -> float:
    """Return today's seconds over ours, before scaling."""
    weights = cost.weight_bytes / (OCCUPANCY * machine.kv_tokens * cost.kv_bytes_per_token)
    s = min(sharing, 0.99)
    today = max(density * (1.0 - kept * s) / (1.0 - s), weights) + 1.0
    halves = HALVES * weights
    together = max(pair_seconds(cost, max(density, halves), 1.0), halves + 1.0)
    serial = max(density, weights) + 1.0
    return today / (min(serial, together) if machine.overlaps else serial)


def _intervals(places: list[float]) -> list[tuple[float, float]]:
    """Return the runs of neighbouring densities among `DENSITIES`."""
    found: list[tuple[float, float]] = []
    for rho in places:
        i = DENSITIES.index(rho)
        if found and i and found[-1][1] == DENSITIES[i - 1]:
            found[-1] = (found[-1][0], rho)
        else:
            found.append((rho, rho))
    return found
