"""The dual scan: shares of memory, sides, the meeting of the scanners, and retries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.scan import (
    COMPUTE,
    HEAVY_RETRY,
    LEFT,
    LEFT_MEMORY,
    NOBODY,
    RETRY,
    RIGHT,
    RIGHT_MEMORY,
    accept,
    cut_off,
    give_back,
    make_scan,
    move_retries,
    propose,
    quiet_until,
    rest,
    retried_requests,
    right_share,
    take_next,
    waiting_requests,
    without,
)


def scan_of(compute, memory, length=None, *, two_sided: bool = True):
    n = len(compute)
    order = np.arange(n, dtype=np.int32)
    lengths = np.arange(n, 0, -1.0) if length is None else np.array(length, float)
    return make_scan(order, np.array(compute, float), np.array(memory, float), lengths, two_sided=two_sided)


def waiting(scan) -> int:
    """How many requests are not admitted."""
    return len(waiting_requests(scan)) + len(retried_requests(scan))


def published_left_share(target: float, left: float, right: float) -> float:
    """The left side's part of the memory M in ``M_l + M_r = M``, ``left M_l + right M_r = target M``."""
    return (target - right) / (left - right)


def shares(scan) -> tuple[float, float]:
    """The parts of the memory that the two sides of a scan should hold."""
    share = right_share(scan.waiting[LEFT_MEMORY], scan.waiting[RIGHT_MEMORY])
    return 1 - share, share


def test_shares_of_the_published_example() -> None:
    """Densities 3.73 and 0.096, and 1.27 of all together: 19.38 and 40.62 of 60 GB."""
    # As many of each density, by memory time, as have the density 1.27 together.
    memory = np.repeat([1.27 - 0.096, 3.73 - 1.27], 100)
    scan = scan_of(memory * np.repeat([3.73, 0.096], 100), memory)
    assert scan.heavy.tolist() == [0] * 100 + [1] * 100
    assert scan.waiting[COMPUTE] / scan.waiting[LEFT_MEMORY : RIGHT_MEMORY + 1].sum() == pytest.approx(1.27)
    left, right = shares(scan)
    assert left * 60 == pytest.approx(19.38, abs=0.01)
    assert right * 60 == pytest.approx(40.62, abs=0.01)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 9), st.floats(0.01, 9)), min_size=2, max_size=12))
def test_the_shares_are_those_of_the_formula_and_mix_to_the_density_of_all(costs) -> None:
    scan = scan_of([c for c, _ in costs], [m for _, m in costs])
    heavy = scan.heavy == 1
    c, m = scan.compute, scan.memory
    left, right = shares(scan)
    assert 0 <= left <= 1
    if heavy.all() or not heavy.any():
        assert {left, right} == {0, 1}
        return
    light_density, heavy_density = c[~heavy].sum() / m[~heavy].sum(), c[heavy].sum() / m[heavy].sum()
    target = c.sum() / m.sum()
    assert left == pytest.approx(published_left_share(target, light_density, heavy_density))
    assert left * light_density + right * heavy_density == pytest.approx(target)


def test_the_share_without_memory_work() -> None:
    assert right_share(0.0, 0.0) == 0.5


def test_sides_by_density_and_the_longest_first_at_the_right() -> None:
    # Density of all: 16 / 8 = 2.
    scan = scan_of([6, 1, 7, 1, 1], [1, 1, 2, 2, 2], [1, 5, 1, 9, 7])
    assert scan.heavy.tolist() == [0, 1, 0, 1, 1]
    assert scan.left.tolist() == [0, 2]
    assert scan.right.tolist() == [3, 4, 1]
    assert [propose(scan, RIGHT, i) for i in range(4)] == [3, 4, 1, NOBODY]
    assert scan.waiting.tolist() == [16, 3, 5]


def test_requests_of_one_kind_make_one_queue() -> None:
    scan = scan_of([0.1] * 7, [0.3] * 7)
    assert scan.left.tolist() == list(range(7))
    assert propose(scan, RIGHT, 0) == NOBODY


def test_the_right_side_is_taken_from_its_middle() -> None:
    scan = scan_of([1, 1, 1, 9], [1, 1, 1, 1], [9, 8, 7, 1])
    accept(scan, RIGHT, 1)
    assert [propose(scan, RIGHT, i) for i in range(3)] == [0, 2, NOBODY]
    assert waiting(scan) == 3
    assert scan.waiting.tolist() == [11, 1, 2]


def test_segments_come_one_after_the_other_and_have_sides_of_their_own() -> None:
    order = np.arange(6, dtype=np.int32)
    costs = np.array([9.0, 1, 5, 4, 3, 1]), np.ones(6), np.arange(6, 0, -1.0)
    scan = make_scan(order, *costs, two_sided=True, segments=np.array([0, 2, 2, 5, 6]))
    assert scan.heavy.tolist() == [0, 1, 0, 0, 1, 0]
    taken = []
    while waiting(scan):
        for side in (RIGHT, LEFT):
            request = propose(scan, side, 0)
            if request != NOBODY:
                accept(scan, side, 0)
                taken.append(request)
                break
    assert taken == [1, 0, 4, 2, 3, 5]
    assert scan.waiting == pytest.approx(0)


def test_an_empty_scan_is_not_read_past_its_end() -> None:
    scan = scan_of([3.0], [1.0])
    accept(scan, LEFT, 0)
    for side in (LEFT, RIGHT, RETRY):
        # The Python body checks bounds, compiled code does not.
        assert propose.py_func(scan, side, 0) == NOBODY
        assert propose.py_func(scan_of([], []), side, 0) == NOBODY


def test_one_sided_policies_walk_their_order() -> None:
    order = np.array([2, 0, 1], np.int32)
    scan = make_scan(order, np.array([1.0, 9.0, 5.0]), np.ones(3), np.ones(3), two_sided=False)
    seen = []
    while waiting(scan):
        assert propose(scan, RIGHT, 0) == NOBODY
        seen.append(propose(scan, LEFT, 0))
        accept(scan, LEFT, 0)
    assert seen == [2, 0, 1]


# No deadline: the first example compiles.
@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.randoms())
def test_retries_go_longest_remaining_first(remaining: list[int], rng) -> None:
    scan = scan_of([1.0] * len(remaining), [1.0] * len(remaining))
    for _ in remaining:
        accept(scan, LEFT, 0)
    assert scan.waiting == pytest.approx(0)
    back = list(range(len(remaining)))
    rng.shuffle(back)
    for request in back:
        give_back(scan, request, float(remaining[request]), 2.0, 3.0)
    assert waiting(scan) == len(remaining)
    assert scan.waiting[COMPUTE] == pytest.approx(2 * len(remaining))
    assert scan.waiting[LEFT_MEMORY] == pytest.approx(3 * len(remaining))
    again = []
    while propose(scan, RETRY, 0) != NOBODY:
        again.append(propose(scan, RETRY, 0))
        accept(scan, RETRY, 0)
    assert sorted(again) == sorted(back)
    assert [remaining[i] for i in again] == sorted(remaining, reverse=True)
    assert waiting(scan) == 0


def test_retries_of_the_two_sides_wait_apart() -> None:
    scan = scan_of([9, 9, 1, 1], [1, 1, 9, 9], [3, 4, 8, 7])
    for side in (LEFT, LEFT, RIGHT, RIGHT):
        accept(scan, side, 0)
    for request, remaining in ((2, 5.0), (0, 2.0), (3, 6.0), (1, 3.0)):
        give_back(scan, request, remaining, 1.0, 1.0)
    assert sorted(retried_requests(scan).tolist()) == [0, 1, 2, 3]
    taken = []
    for side in (RETRY, HEAVY_RETRY):
        while propose(scan, side, 0) != NOBODY:
            taken.append(propose(scan, side, 0))
            accept(scan, side, 0)
    assert taken == [1, 0, 3, 2]
    assert waiting(scan) == 0
    assert scan.waiting == pytest.approx(0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 9), st.floats(0.01, 9)), min_size=1, max_size=12),
    st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.booleans()), min_size=12, max_size=12),
    st.booleans(),
)
def test_each_request_is_taken_once(costs, steps, two_sided: bool) -> None:
    """Whatever side goes next, whichever place of the right side fits, and whoever comes back."""
    scan = scan_of([c for c, _ in costs], [m for _, m in costs], two_sided=two_sided)
    taken = []
    for right, place, preempt in steps:
        side = RIGHT if right else LEFT
        if propose(scan, side, 0) == NOBODY:
            side = RIGHT + LEFT - side
        if propose(scan, side, 0) == NOBODY:
            break
        at = next(i for i in range(place, -1, -1) if propose(scan, side, i) != NOBODY)
        request = propose(scan, side, at)
        accept(scan, side, at)
        if preempt:
            again = HEAVY_RETRY if scan.heavy[request] else RETRY
            give_back(scan, request, 1.0, 1.0, 1.0)
            assert propose(scan, again, 0) == request
            assert propose(scan, RETRY + HEAVY_RETRY - again, 0) == NOBODY
            accept(scan, again, 0)
        taken.append(request)
        assert waiting(scan) == len(costs) - len(taken)
    assert sorted(taken) == list(range(len(costs)))
    assert scan.waiting == pytest.approx(0, abs=1e-9)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 9), st.floats(0.01, 9)), min_size=2, max_size=16),
    st.lists(st.sampled_from([LEFT, RIGHT]), max_size=12),
    st.booleans(),
    st.data(),
)
def test_without_some_the_others_come_in_their_order(costs, sides, two_sided: bool, data) -> None:
    """Whatever has been taken before, with a preempted request, and in two segments."""
    n = len(costs)
    cut = data.draw(st.integers(0, n))
    compute, memory = np.array(costs).T
    bounds = np.array([0, cut, n])
    scan = make_scan(
        np.arange(n, dtype=np.int32),
        compute,
        memory,
        np.arange(n, 0, -1.0),
        two_sided=two_sided,
        segments=bounds,
    )
    taken = [take_next(scan, side) for side in sides]
    taken = [request for request in taken if request != NOBODY]
    if taken:
        give_back(scan, taken[0], 2.0, 3.0, 4.0)
    gone = (
        data.draw(st.sets(st.sampled_from(waiting_requests(scan).tolist()))) if waiting(scan) > 1 else set()
    )
    found = without(scan, np.array(sorted(gone), np.int32))
    for start, end in ((0, cut), (cut, n)):
        for side in (0, 1):
            mine = [
                [i for i in waiting_requests(one).tolist() if start <= i < end and one.heavy[i] == side]
                for one in (scan, found)
            ]
            assert mine[1] == [i for i in mine[0] if i not in gone]
    assert retried_requests(found).tolist() == retried_requests(scan).tolist() == taken[:1]
    left = []
    # The first round empties one segment, the second the other.
    for side in (HEAVY_RETRY, RETRY, LEFT, RIGHT, LEFT, RIGHT):
        while (request := take_next(found, side)) != NOBODY:
            left.append(request)
    assert sorted(left) == sorted(set(range(n)) - gone - set(taken[1:]))
    assert found.waiting == pytest.approx(0, abs=1e-9)


def test_requests_with_a_prefix_in_common_stay_together() -> None:
    order, length = np.arange(6, dtype=np.int32), np.array([1.0, 9, 2, 8, 3, 7])
    compute, memory = np.array([8.0, 1, 1, 1, 1, 1]), np.array([1.0, 1, 1, 1, 1, 9])
    linked = np.array([False, True, False, True, False, False])
    scan = make_scan(order, compute, memory, length, two_sided=True, linked=linked)
    # The density of all is 13 / 14, that of the first two 9 / 2; then come means of 5, 3 and 7.
    assert scan.left.tolist() == [0, 1, 2, 3, 4]
    assert scan.right.tolist() == [5]
    memory[:] = 1, 1, 3, 3, 4, 3
    scan = make_scan(order, compute, memory, length, two_sided=True, linked=linked)
    assert scan.left.tolist() == [0, 1]
    assert scan.right.tolist() == [5, 2, 3, 4]


def test_retries_go_to_the_sides_that_new_estimates_say() -> None:
    scan = scan_of([8, 8, 1, 1], [1, 1, 8, 8])
    for side in (LEFT, LEFT, RIGHT, RIGHT):
        accept(scan, side, 0)
    for request, remaining in ((0, 5.0), (1, 9.0), (2, 7.0)):
        give_back(scan, request, remaining, 2.0, 3.0)
    assert [propose(scan, side, 0) for side in (RETRY, HEAVY_RETRY)] == [1, 2]
    move_retries(scan, np.array([0, 1, 0, 1], np.int8))
    assert [propose(scan, side, 0) for side in (RETRY, HEAVY_RETRY)] == [2, 1]
    assert sorted(retried_requests(scan).tolist()) == [0, 1, 2]
    assert scan.heavy.tolist() == [0, 1, 0, 1]
    assert scan.waiting[[COMPUTE, LEFT_MEMORY, RIGHT_MEMORY]].tolist() == [6.0, 6.0, 3.0]


def test_the_right_side_is_cut_off_by_retries_once_the_left_one_has_run_out() -> None:
    scan = scan_of([8, 1, 1], [1, 8, 8])
    accept(scan, RIGHT, 0)
    give_back(scan, 1, 9.0, 1.0, 8.0)
    assert not cut_off(scan)
    accept(scan, LEFT, 0)
    assert cut_off(scan)
    assert quiet_until(scan) == 0
    rest(scan, LEFT, 50)
    rest(scan, RIGHT, 70)
    assert quiet_until(scan) == 50
    accept(scan, HEAVY_RETRY, 0)
    assert not cut_off(scan)
