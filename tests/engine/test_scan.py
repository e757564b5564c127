"""The dual scan: shares of memory, sides, the meeting of the scanners, and retries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.scan import (
    AT_LEFT,
    LEFT,
    NOBODY,
    RETRY,
    RIGHT,
    accept,
    finish,
    give_back,
    left_share,
    make_scan,
    preferred_side,
    propose,
    waiting,
)


def scan_of(compute: list[float], memory: list[float], *, two_sided: bool = True):
    order = np.arange(len(compute), dtype=np.int32)
    return make_scan(order, np.array(compute, float), np.array(memory, float), two_sided=two_sided)


def test_share_of_the_published_example() -> None:
    share = left_share(1.27, 3.73, 0.096)
    assert share * 60 == pytest.approx(19.38, abs=0.01)
    assert (1 - share) * 60 == pytest.approx(40.62, abs=0.01)


@settings(deadline=None)
@given(st.floats(0.01, 50), st.floats(0.01, 50), st.floats(0.01, 50))
def test_share_mixes_to_the_target_or_is_clamped(target: float, a: float, b: float) -> None:
    left, right = max(a, b), min(a, b)
    share = left_share(target, left, right)
    assert 0 <= share <= 1
    if left == right:
        assert share == 0.5
    elif target >= left:
        assert share == 1
    elif target <= right:
        assert share == 0
    else:
        assert share * left + (1 - share) * right == pytest.approx(target)


def test_crossed_densities_give_one_side_everything() -> None:
    assert left_share(2.0, 1.0, 3.0) == 1.0
    assert left_share(0.5, 1.0, 3.0) == 0.0


def test_the_side_that_is_short_goes_next() -> None:
    # Densities 4 and 0.5, target (4 + 2 + 1 + 0.5) / 4 = 1.875: the left share is 1.375 / 3.5.
    scan = scan_of([4, 2, 1, 0.5], [1, 1, 1, 1])
    share = 1.375 / 3.5
    assert preferred_side(scan, 0.0, 0.0) == RIGHT
    assert preferred_side(scan, 100 * share - 1, 100 * (1 - share) + 1) == LEFT
    assert preferred_side(scan, 100 * share + 1, 100 * (1 - share) - 1) == RIGHT


@pytest.mark.parametrize(("remaining", "side"), [((100.0, 1.0), LEFT), ((0.01, 1.0), RIGHT)])
def test_both_densities_on_one_side_of_the_target(remaining: tuple[float, float], side: int) -> None:
    scan = scan_of([4, 2, 1], [1, 1, 1])
    scan.remaining[:] = remaining
    for loads in ((0.0, 0.0), (1000.0, 1.0), (1.0, 1000.0)):
        assert preferred_side(scan, *loads) == side


def test_equal_densities_balance_the_two_sides() -> None:
    scan = scan_of([2, 2, 2, 2], [1, 1, 1, 1])
    assert preferred_side(scan, 10.0, 11.0) == LEFT
    assert preferred_side(scan, 11.0, 10.0) == RIGHT


def test_target_follows_what_is_unfinished() -> None:
    scan = scan_of([8, 1, 1], [1, 1, 4])
    finish(scan, 0)
    assert scan.remaining.tolist() == [2, 5]
    finish(scan, 2)
    assert scan.remaining.tolist() == [1, 1]


def test_scanners_meet() -> None:
    scan = scan_of([3, 2, 1], [1, 1, 1])
    assert (propose(scan, LEFT), propose(scan, RIGHT)) == (0, 2)
    accept(scan, LEFT)
    accept(scan, RIGHT)
    assert propose(scan, LEFT) == propose(scan, RIGHT) == 1
    assert preferred_side(scan, 50.0, 1.0) == LEFT
    accept(scan, LEFT)
    assert propose(scan, LEFT) == propose(scan, RIGHT) == NOBODY
    assert waiting(scan) == 0


def test_an_empty_scan_is_not_read_past_its_end() -> None:
    scan = scan_of([3.0], [1.0])
    accept(scan, LEFT)
    # The Python body checks bounds, compiled code does not.
    assert preferred_side.py_func(scan, 5.0, 5.0) == LEFT
    assert preferred_side.py_func(scan_of([], []), 0.0, 0.0) == LEFT


def test_one_sided_policies_walk_their_order() -> None:
    order = np.array([2, 0, 1], np.int32)
    scan = make_scan(order, np.array([1.0, 9.0, 5.0]), np.ones(3), two_sided=False)
    seen = []
    while waiting(scan):
        assert preferred_side(scan, 1e9, 0.0) == LEFT
        assert propose(scan, RIGHT) == NOBODY
        seen.append(propose(scan, LEFT))
        accept(scan, LEFT)
    assert seen == [2, 0, 1]


# No deadline: the first example compiles.
@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.randoms())
def test_retries_go_longest_remaining_first(remaining: list[int], rng) -> None:
    scan = scan_of([1.0] * len(remaining), [1.0] * len(remaining))
    left = np.array(remaining, float)
    for _ in remaining:
        accept(scan, LEFT)
    back = list(range(len(remaining)))
    rng.shuffle(back)
    for request in back:
        give_back(scan, request, left)
    assert waiting(scan) == len(remaining)
    again = []
    while propose(scan, RETRY) != NOBODY:
        again.append(propose(scan, RETRY))
        accept(scan, RETRY)
    assert sorted(again) == sorted(back)
    assert [remaining[i] for i in again] == sorted(remaining, reverse=True)
    assert waiting(scan) == 0


STEP = st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans(), st.booleans())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 9), st.floats(0.01, 9)), min_size=1, max_size=12),
    st.lists(STEP, min_size=12, max_size=12),
    st.booleans(),
)
def test_each_request_is_taken_once(costs, steps, two_sided: bool) -> None:
    """Whatever the loads, and whether the preferred or the other side fits."""
    scan = scan_of([c for c, _ in costs], [m for _, m in costs], two_sided=two_sided)
    taken = []
    for left, right, other, retract in steps:
        side = preferred_side(scan, left, right)
        if other and two_sided:
            side = RIGHT if side == LEFT else LEFT
        request = propose(scan, side)
        if request == NOBODY:
            break
        if not two_sided:
            assert request == scan.order[scan.cursor[AT_LEFT]]
        accept(scan, side)
        if retract:
            give_back(scan, request, np.zeros(len(costs)))
            assert propose(scan, RETRY) == request
            accept(scan, RETRY)
        taken.append(request)
        assert waiting(scan) == len(costs) - len(taken)
    assert sorted(taken) == list(range(len(costs)))
