"""The order of a step's operators, and the check that finds every dependence that is not kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models.layer import COMPUTE, LAYER, MEMORY
from engine.models.schedule import Task, launch_order, lean
from tests.support.schedule_checks import Footprint, missing_edges

NONE = np.zeros(0, np.int64)
APART = [Footprint(np.array([4, 5]), np.array([1, 4, 5])), Footprint(np.array([9]), np.array([2, 9]))]
FOLLOWING = [Footprint(np.array([4, 5]), np.array([4, 5])), Footprint(np.array([9]), np.array([4, 5, 9]))]
BACKWARDS = [Footprint(np.array([4, 5]), np.array([4, 5, 9])), Footprint(np.array([9]), np.array([9]))]
NAMES = [operator.name for operator in LAYER]


def alone(tasks: tuple[Task, ...]) -> list[Task]:
    """Every task in a lane of its own, so that only the waits order them."""
    return [replace(task, lane=str(i)) for i, task in enumerate(tasks)]


@pytest.mark.parametrize("footprints", [APART, FOLLOWING])
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_what_operators_wait_for_is_enough_by_itself(layers: int, footprints: list[Footprint]) -> None:
    tasks = launch_order(layers, 2)
    assert len(tasks) == len(set(tasks)) == 2 * layers * len(LAYER)
    assert missing_edges(tasks, footprints) == []
    assert missing_edges(lean(tasks), footprints) == []
    assert missing_edges(alone(tasks), footprints) == []
    assert missing_edges(launch_order(layers, 1), footprints[:1]) == []


def test_no_wait_can_be_left_out() -> None:
    tasks = alone(launch_order(3, 2))
    for i, task in enumerate(tasks):
        for left_out in task.waits:
            waits = tuple(w for w in task.waits if w != left_out)
            other = tasks[left_out]
            found = missing_edges([*tasks[:i], replace(task, waits=waits), *tasks[i + 1 :]], FOLLOWING)
            assert found, f"{NAMES[task.operator]} need not wait for {NAMES[other.operator]}"
            mine, others = (f"{NAMES[t.operator]} of nano-batch {t.part}" for t in (task, other))
            assert any(f"{mine} does not wait for {others}" in line for line in found)


def test_no_event_between_the_lanes_can_be_left_out() -> None:
    tasks = lean(launch_order(4, 2))
    for i, task in enumerate(tasks):
        for left_out in task.waits:
            assert tasks[left_out].lane != task.lane
            waits = tuple(w for w in task.waits if w != left_out)
            assert missing_edges([*tasks[:i], replace(task, waits=waits), *tasks[i + 1 :]], FOLLOWING)


def test_each_layer_of_each_nano_batch_needs_two_events() -> None:
    """One into attention and one out of it; the edge between the nano-batches comes with the lanes' order."""
    layers = 6
    waits = [w for task in lean(launch_order(layers, 2)) for w in task.waits]
    assert len(waits) == 2 * 2 * layers


def test_attention_of_one_has_the_products_of_the_other_beside_it() -> None:
    tasks = launch_order(4, 2)
    for i, task in enumerate(tasks):
        if task.lane != MEMORY or task.layer == 3:
            continue
        until = next(j for j in range(i, len(tasks)) if i in tasks[j].waits and tasks[j].lane == COMPUTE)
        between = [tasks[j] for j in range(i + 1, until) if tasks[j].lane == COMPUTE]
        assert between
        assert {other.part for other in between} == {1 - task.part}
        if task.layer > 0 or task.part == 1:
            # All the products of a layer: out to leave of one, and qkv and store of the next one.
            names = [NAMES[other.operator] for other in between]
            assert names == ["out", "norm", "widen", "narrow", "leave", "qkv", "store"]


def test_a_follower_must_not_come_before_the_one_it_follows() -> None:
    found = missing_edges(launch_order(2, 2), BACKWARDS)
    assert found == [
        f"layer {layer}: attention of nano-batch 0 does not wait for store of nano-batch 1 "
        "(1 places of the KV cache)"
        for layer in (0, 1)
    ]


def test_a_wait_for_a_later_task_is_refused() -> None:
    tasks = list(launch_order(1, 2))
    tasks[0] = replace(tasks[0], waits=(3,))
    with pytest.raises(ValueError, match="launched later"):
        missing_edges(tasks, APART)


@given(st.integers(1, 4), st.integers(1, 3), st.randoms())
def test_any_order_of_launches_that_keeps_the_waits_passes(layers: int, parts: int, random) -> None:
    """With one lane per nano-batch and kind, launched in any topological order."""
    tasks = launch_order(layers, parts)
    left, done, order = set(range(len(tasks))), {}, []
    while left:
        ready = sorted(i for i in left if all(w in done for w in tasks[i].waits))
        chosen = random.choice(ready)
        done[chosen] = len(order)
        order.append(chosen)
        left.remove(chosen)
    shuffled = [
        replace(
            tasks[i], lane=f"{tasks[i].lane} {tasks[i].part}", waits=tuple(done[w] for w in tasks[i].waits)
        )
        for i in order
    ]
    everything = np.arange(4)
    prints = [Footprint(np.array([p]), everything[: p + 1]) for p in range(parts)]
    assert missing_edges(shuffled, prints) == []
    # One operator that is launched before what it reads is there.
    early = next(i for i, task in enumerate(shuffled) if NAMES[task.operator] == "attention")
    broken = [*shuffled[:early], replace(shuffled[early], waits=(), lane="other"), *shuffled[early + 1 :]]
    assert missing_edges(broken, prints)
