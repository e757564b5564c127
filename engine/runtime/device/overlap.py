"""How attention of one nano-batch and matrix products of the other share the device, and by how much.

Attention that reads KV is launched on k blocks, which read nearly as fast as all of them from some k on; the
products may be told to leave k multiprocessors free. How well that works was measured for each k as the
interference by the share of memory time (`tests/benchmarks/overlap/`); from that the k of a step follows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.cost.step import DeviceProfile, ModelShape, StepCost, pair_seconds, step_cost
from engine.models.schedule import OVERLAPPING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.cost.profiles import Points
    from engine.runtime.device.nano_batches import SplitRule

MOST_KEPT: Final = 2
"""Numbers k that a run chooses among: there is a set of graphs for each."""
MARGIN: Final = 0.02
"""Part of the time that another k must save before it takes the place of the present one."""
STRATEGIES: Final = ("turns", "streams", "k-limited", "carveout")
"""One after the other; side by side; attention on k blocks; and the products on the other multiprocessors."""


@dataclass(frozen=True)
class Strategy:
    """How cut steps run.

    Attributes
    ----------
    name
        One of `STRATEGIES`.
    costs
        For each k the cost of steps cut in two, with its interference; empty for a strategy without k.
    """

    name: str = "turns"
    costs: Mapping[int, StepCost] | None = None

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise ValueError(f"strategy: {self.name!r} is unknown; choose one of {', '.join(STRATEGIES)}")
        if (self.name in {"k-limited", "carveout"}) != bool(self.costs):
            raise ValueError(f"strategy: {self.name} and k = {sorted(self.costs or ())} do not go together")

    @classmethod
    def of(
        cls, name: str, shape: ModelShape, device: DeviceProfile, surfaces: Mapping[int, Points]
    ) -> Strategy:
        """Return a strategy for a model on a device whose interference was measured for these k.

        At most `MOST_KEPT` of them are used: those that are best together. A strategy without k takes none.

        Raises
        ------
        ValueError
            If the strategy is unknown, or needs a k and there is none.
        """
        if name not in {"k-limited", "carveout"}:
            return cls(name)
        costs = {}
        for k in fewest(surfaces, MOST_KEPT):
            beside = replace(device, pair=tuple(surfaces[k]), overlaps=True)
            costs[k] = step_cost(shape, beside, overlap=True, nano_batches=OVERLAPPING)
        return cls(name, costs)

    @property
    def kept(self) -> tuple[int | None, ...]:
        """The k that a step can have; None alone for a strategy without."""
        return tuple(sorted(self.costs)) if self.costs else (None,)

    @property
    def carves(self) -> bool:
        """Whether matrix products leave k multiprocessors to attention."""
        return self.name == "carveout"

    def choose(self, products: float, attention: float, present: int | None) -> int | None:
        """Return the k of a step whose products and attention take these seconds apart; see `steady`."""
        if not self.costs:
            return None
        seconds = {k: pair_seconds(cost, products, attention) for k, cost in self.costs.items()}
        return steady(seconds, present)


class Overlap(NamedTuple):
    """What switches overlap on in a runner.

    Attributes
    ----------
    split
        Which steps are cut into two nano-batches.
    strategy
        How the two run.
    """

    split: SplitRule
    strategy: Strategy


def steady(seconds: Mapping[int, float], present: int | None, margin: float = MARGIN) -> int:
    """Return the k that takes least, or the present one where the best would save less than `margin` of it.

    So it does not go to and fro between two that are about equal: to come back after a change, the modelled
    times must have moved by `margin` the other way.
    """
    best = min(seconds, key=seconds.__getitem__)
    if present is not None and present in seconds and seconds[best] >= (1.0 - margin) * seconds[present]:
        return present
    return best


def fewest(surfaces: Mapping[int, Points], most: int) -> tuple[int, ...]:
    """Return up to `most` k, in rising order, with the least interference, the best one at each share.

    All surfaces have their points at the same shares of memory time, as they are measured.
    """
    candidates = [
        chosen
        for count in range(1, min(most, len(surfaces)) + 1)
        for chosen in itertools.combinations(sorted(surfaces), count)
    ]

    def loss(chosen: Iterable[int]) -> float:
        columns = zip(*([g for _, g in sorted(surfaces[k])] for k in chosen), strict=True)
        return float(sum(min(column) for column in columns))

    # The first of equals has the fewest.
    return tuple(min(candidates, key=loss, default=()))
