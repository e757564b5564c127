"""Checks of a schedule: that nothing is read before it is there, and that no memory is used again too early.

They do not trust what operators say they wait for: from what operators read and write they derive which of
them must come before which, and look for a way from one to the other through the lanes' order and the waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.models.layer import LAYER, Operator
from engine.runtime.state import W_SEQUENCES, W_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.arrays import Int64
    from engine.models.schedule import Task
    from engine.runtime.state import Slots, Work


class Footprint(NamedTuple):
    """Places of the KV cache (page * page size + offset) that a nano-batch stores, and that it attends to."""

    stores: Int64
    attends: Int64


def footprint(half: Work, slots: Slots, page_size: int) -> Footprint:
    """Return the places of the KV cache that a nano-batch stores and attends to."""
    tokens = int(half.size[W_TOKENS])
    stores = half.pages[:tokens] * page_size + half.offsets[:tokens]
    seen = [np.zeros(0, np.int64)]
    for i in range(int(half.size[W_SEQUENCES])):
        place = np.arange(half.context[i])
        pages: Int64 = slots.pages[half.slot[i], place // page_size].astype(np.int64)
        seen.append(pages * page_size + place % page_size)
    return Footprint(np.unique(stores), np.unique(np.concatenate(seen)))


def missing_edges(
    tasks: Sequence[Task], footprints: Sequence[Footprint], operators: Sequence[Operator] = LAYER
) -> list[str]:
    """Return the dependences that a schedule does not keep, one line each; empty if it is right.

    Parameters
    ----------
    footprints
        Of each nano-batch. Where one attends to places that another stores in the same step (a chunk that was
        cut in two, a request that shares a prefix which another one is computing), the store must come first.
    """
    clocks, places = _clocks(tasks), _places_in_lanes(tasks)

    def line(before: int, after: int, what: str) -> str:
        names = [
            f"{operators[t.operator].name} of nano-batch {t.part}" for t in (tasks[before], tasks[after])
        ]
        return f"layer {tasks[after].layer}: {names[1]} does not wait for {names[0]} ({what})"

    return [
        line(before, after, what)
        for before, after, what in _conflicts(tasks, footprints, operators)
        if clocks[after].get(tasks[before].lane, -1) < places[before]
    ]


def early_drops(tasks: Sequence[Task], operators: Sequence[Operator] = LAYER) -> list[str]:
    """Return the tensors whose memory could be used again too early, one line each; empty if there are none.

    A tensor is allocated by the operator that writes its field and dropped by the next one that does. Its
    memory then goes to whatever the lane of the first one allocates next: if the other lane dropped it, the
    operator that is launched next in the first lane must wait for the one that dropped it.
    """
    clocks, places = _clocks(tasks), _places_in_lanes(tasks)
    wrote: dict[tuple[int, str], int] = {}
    found = []
    for i in _model_order(tasks):
        task, operator = tasks[i], operators[tasks[i].operator]
        for name in operator.writes:
            if name == "kv":
                continue
            key = task.part, name
            lane = tasks[wrote.pop(key, i)].lane
            if name not in operator.drops:
                wrote[key] = i
            following = (k for k in range(i + 1, len(tasks)) if tasks[k].lane == lane)
            after = i if lane == task.lane else next(following, i)
            if clocks[after].get(task.lane, -1) < places[i]:
                user = operators[tasks[after].operator].name
                found.append(
                    f"layer {task.layer}: {name} of nano-batch {task.part} is dropped by {operator.name}, "
                    f"for which {user} of nano-batch {tasks[after].part} does not wait"
                )
    return found


def _model_order(tasks: Sequence[Task]) -> list[int]:
    """Return the tasks layer by layer, and in a layer operator by operator."""
    return sorted(range(len(tasks)), key=lambda i: (tasks[i].layer, tasks[i].operator, tasks[i].part))


def _conflicts(
    tasks: Sequence[Task], footprints: Sequence[Footprint], operators: Sequence[Operator]
) -> Iterator[tuple[int, int, str]]:
    """Yield (before, after, what) of tasks that must run in this order.

    The order is that of the model: layer by layer, and in a layer operator by operator. Of the accesses to a
    field only neighbours are looked at, the rest follows from them.
    """
    wrote: dict[tuple[int, str], int] = {}
    read: dict[tuple[int, str], list[int]] = {}
    stored: dict[tuple[int, int], int] = {}
    for i in _model_order(tasks):
        task, operator = tasks[i], operators[tasks[i].operator]
        for name in dict.fromkeys((*operator.reads, *operator.writes)):
            if name == "kv":
                continue
            key = task.part, name
            if key in wrote:
                yield wrote[key], i, name
            if name in operator.writes:
                for reader in read.pop(key, []):
                    yield reader, i, name
                wrote[key] = i
            else:
                read.setdefault(key, []).append(i)
        if "kv" in operator.writes:
            stored[task.layer, task.part] = i
        elif "kv" in operator.reads:
            for part, footprint in enumerate(footprints):
                shared = np.intersect1d(footprint.stores, footprints[task.part].attends)
                if len(shared):
                    yield stored[task.layer, part], i, f"{len(shared)} places of the KV cache"


def _places_in_lanes(tasks: Sequence[Task]) -> list[int]:
    counts: dict[str, int] = {}
    places = []
    for task in tasks:
        places.append(counts.get(task.lane, 0))
        counts[task.lane] = places[-1] + 1
    return places


def _clocks(tasks: Sequence[Task]) -> list[dict[str, int]]:
    """Return for each task the last place of every lane that has run before it ends (vector clocks).

    Raises
    ------
    ValueError
        If a task waits for one that is launched after it: on a device it would wait forever, or not at all.
    """
    places, last, clocks = _places_in_lanes(tasks), dict[str, int](), list[dict[str, int]]()
    for i, task in enumerate(tasks):
        known = dict(clocks[last[task.lane]]) if task.lane in last else {}
        for other in task.waits:
            if other >= i:
                raise ValueError(f"task {i} waits for task {other}, which is launched later")
            known = _later(known, clocks[other])
        known[task.lane] = places[i]
        clocks.append(known)
        last[task.lane] = i
    return clocks


def _later(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {lane: max(a.get(lane, -1), b.get(lane, -1)) for lane in a.keys() | b.keys()}
