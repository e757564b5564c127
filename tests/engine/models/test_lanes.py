"""What is issued to a device's streams is the checked schedule; seen by a stand-in that records it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models.lanes import InTurn, StreamLanes
from engine.models.layer import COMPUTE, MEMORY
from engine.models.schedule import (
    Task,
    launch_order,
    lean_order,
)
from tests.support.schedule_checks import Footprint, early_drops, missing_edges
from tests.support.streams import Recorded

FOLLOWING = [Footprint(np.array([4, 5]), np.array([4, 5])), Footprint(np.array([9]), np.array([4, 5, 9]))]


def clocks(tasks: list[Task]) -> list[set[int]]:
    """For each task all that has run before it ends, by the order of streams and the waits."""
    last: dict[str, int] = {}
    found: list[set[int]] = []
    for i, task in enumerate(tasks):
        before = {i}
        for other in (*task.waits, *([last[task.lane]] if task.lane in last else [])):
            before |= found[other]
        found.append(before)
        last[task.lane] = i
    return found


def issued(layers: int, *, own_compute: bool) -> Recorded:
    """A step of two nano-batches between two pieces of other work on the current stream."""
    api = Recorded()
    outside = Task(0, 0, -1, "main")
    compute = api.Stream("products") if own_compute else None
    lanes = StreamLanes(api.Stream("attention"), compute, api=api)
    for _ in range(2):
        api.main.issue(outside)
        lanes.run(lean_order(layers, 2), api.launch)
    api.main.issue(outside)
    return api


@given(st.integers(1, 5), st.booleans())
def test_what_is_issued_keeps_every_edge(layers: int, own_compute: bool) -> None:
    api = issued(layers, own_compute=own_compute)
    count = len(lean_order(layers, 2))
    # The two steps, apart from each other and from the rest; waits for what came before are left out.
    for first in (1, count + 2):
        inside = [
            replace(t, waits=tuple(w - first for w in t.waits if w >= first))
            for t in api.tasks[first : first + count]
        ]
        names = [(t.layer, t.part, t.operator) for t in inside]
        assert names == [(t.layer, t.part, t.operator) for t in launch_order(layers, 2)]
        assert missing_edges(inside, FOLLOWING) == []
        assert early_drops(inside) == []
        # No event more than the schedule says, beside the fork.
        assert sum(len(t.waits) for t in inside) == sum(len(t.waits) for t in lean_order(layers, 2))
    # Steps use the same events again.
    assert api.created == count


@given(st.integers(1, 3), st.booleans())
def test_a_step_forks_from_the_current_stream_and_joins_it(layers: int, own_compute: bool) -> None:
    api = issued(layers, own_compute=own_compute)
    known = clocks(api.tasks)
    outside = [i for i, task in enumerate(api.tasks) if task.operator == -1]
    assert len(outside) == 3
    for before, after in itertools.pairwise(outside):
        assert all(before in known[i] for i in range(before + 1, after))
        assert set(range(before + 1, after)) <= known[after]


@pytest.mark.parametrize("layers", [1, 4])
def test_no_memory_is_used_again_too_early(layers: int) -> None:
    for parts in (1, 2, 3):
        assert early_drops(launch_order(layers, parts)) == []
        assert early_drops(lean_order(layers, parts)) == []


def test_memory_that_is_used_again_too_early_is_found() -> None:
    """Attention launched ahead of the products that drop what the attention before has written."""
    tasks = list(lean_order(3, 2))
    lazy = next(i for i, t in enumerate(tasks) if t.lane == MEMORY and t.layer == 2)
    tasks[lazy] = replace(tasks[lazy], waits=())
    found = early_drops(tasks)
    assert any("mixed of nano-batch" in line and "does not wait" in line for line in found), found


def test_without_streams_everything_runs_in_order() -> None:
    ran: list[Task] = []
    InTurn().run(lean_order(2, 2), ran.append)
    assert ran == list(lean_order(2, 2))
    assert {task.lane for task in ran} == {COMPUTE, MEMORY}
