"""In which order the operators of a step are launched, and what each of them waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from engine.models.layer import LAYER, Operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Places = npt.NDArray[np.int64]

OVERLAPPING = 2
"""Nano-batches of a step whose attention and matrix products are to run side by side."""


@dataclass(frozen=True)
class Task:
    """An operator of one layer of one nano-batch.

    Attributes
    ----------
    layer, part, operator
        Index of the layer, of the nano-batch, and of the operator in the list of a layer.
    lane
        Where it runs; tasks of one lane run in the order of their launches.
    waits
        Tasks that it waits for, by their place in the schedule.
    """

    layer: int
    part: int
    operator: int
    lane: str
    waits: tuple[int, ...] = ()


@lru_cache
def launch_order(layers: int, parts: int, operators: Sequence[Operator] = LAYER) -> tuple[Task, ...]:
    """Return the schedule of a step of some nano-batches that take turns.

    Between its attention in one layer and that in the next a nano-batch runs all of its matrix products at
    one go, so the order is: products of the first, products of the second, and so on. The attention of each
    then has the products of the next one beside it. With one nano-batch it is the plain order.
    """
    split = next((i + 1 for i, o in enumerate(operators) if o.lane != operators[0].lane), len(operators))
    found: list[tuple[int, int, int]] = []
    for layer in range(layers + 1):
        for part in range(parts):
            if layer > 0:
                found += [(layer - 1, part, i) for i in range(split, len(operators))]
            if layer < layers:
                found += [(layer, part, i) for i in range(split)]
    place = {key: i for i, key in enumerate(found)}
    index = {operator.name: i for i, operator in enumerate(operators)}
    tasks = []
    for layer, part, i in found:
        operator = operators[i]
        waits = [place[layer, part, index[name]] for name in operator.after]
        waits += [place[layer, other, index[name]] for name in operator.earlier for other in range(part)]
        if operator.follows is not None and layer > 0:
            waits.append(place[layer - 1, part, index[operator.follows]])
        tasks.append(Task(layer, part, i, operator.lane, tuple(sorted(waits))))
    return tuple(tasks)


def lean(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Return the schedule without waits that the order of the lanes and the other waits imply.

    What is left are the events that a device has to record.
    """
    kept: list[Task] = []
    clocks: list[dict[str, int]] = []
    places = _places_in_lanes(tasks)
    last: dict[str, int] = {}
    for i, task in enumerate(tasks):
        known = dict(clocks[last[task.lane]]) if task.lane in last else {}
        waits = []
        # The latest first: it may know of the others.
        for other in sorted(task.waits, reverse=True):
            lane, place = tasks[other].lane, places[other]
            if known.get(lane, -1) < place:
                waits.append(other)
                known = _later(known, clocks[other])
        known[task.lane] = places[i]
        clocks.append(known)
        last[task.lane] = i
        kept.append(replace(task, waits=tuple(sorted(waits))))
    return tuple(kept)


@lru_cache
def lean_order(layers: int, parts: int) -> tuple[Task, ...]:
    """Return the schedule of a step, with the waits that a device needs."""
    return lean(launch_order(layers, parts))


def _places_in_lanes(tasks: Sequence[Task]) -> list[int]:
    counts: dict[str, int] = {}
    places = []
    for task in tasks:
        places.append(counts.get(task.lane, 0))
        counts[task.lane] = places[-1] + 1
    return places


def _later(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {lane: max(a.get(lane, -1), b.get(lane, -1)) for lane in a.keys() | b.keys()}
