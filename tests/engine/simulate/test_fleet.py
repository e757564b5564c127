"""Several simulated engines: everything answered once, work that moves, one engine as ever."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, step_cost
from engine.plan.moves import divide, part_to_move
from engine.plan.order import arrange, leaf_of
from engine.plan.policies import plan_tree
from engine.plan.tree import build_tree
from engine.runtime.settings import EngineSettings
from engine.simulate.fleet import FleetRun, simulate_fleet
from engine.simulate.simulate import simulate
from tests.support.simulated_nights import SHAPE, random_night

DEVICE = NOMINAL["a100"]
SIZES = EngineSettings(kv_tokens=2048, page_size=4, token_budget=64, max_sequences=16, pacing=True)


def night(seed: int, requests: int = 60):
    return random_night(seed, requests, 40, 1.5)


def run(work, replicas: int, *, moves: bool, slowness: tuple[float, ...] = ()) -> FleetRun:
    tokens, start, output, estimate = work
    tree = build_tree(tokens, start)
    leaf = leaf_of(tree)
    everything = np.arange(len(output), dtype=np.int32)
    devices = [
        replace(DEVICE, flops=DEVICE.flops / slow, read_bytes=DEVICE.read_bytes / slow)
        for slow in slowness or (1.0,) * replicas
    ]
    return simulate_fleet(
        divide(tree, everything, estimate, SHAPE, DEVICE, replicas),
        lambda some: plan_tree("blend", arrange(tree, np.sort(leaf[some])), estimate, SHAPE, DEVICE),
        (lambda some: part_to_move(tree, some, estimate, SHAPE, DEVICE)) if moves else None,
        tokens,
        start,
        output,
        SIZES,
        [step_cost(SHAPE, device) for device in devices],
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 5), st.booleans(), st.data())
def test_every_request_is_answered_once_however_fast_the_engines_are(
    seed: int, replicas: int, moves: bool, data: st.DataObject
) -> None:
    work = night(seed)
    slowness = tuple(data.draw(st.lists(st.floats(0.2, 5.0), min_size=replicas, max_size=replicas)))
    found = run(work, replicas, moves=moves, slowness=slowness)
    assert found.requests.sum() == len(work[2])
    assert sum(one.decode_tokens + one.prefill_tokens for one in found.runs) > 0
    assert 0.0 <= found.idle < 1.0
    assert moves or found.moves == found.moved == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_fleet_of_one_is_the_simulator(seed: int) -> None:
    tokens, start, output, estimate = work = night(seed)
    plan = plan_tree("blend", build_tree(tokens, start), estimate, SHAPE, DEVICE)
    alone = simulate(plan, tokens, start, output, SIZES, step_cost(SHAPE, DEVICE))
    (same,) = run(work, 1, moves=True).runs
    # It is looked at more often, so fewer steps are taken together.
    assert replace(same, jumped=alone.jumped) == alone


def test_work_moves_away_from_a_slow_engine() -> None:
    work = night(5, 600)
    slow = (1.0, 1.0, 1.0, 3.0)
    fixed, moving = (run(work, 4, moves=moves, slowness=slow) for moves in (False, True))
    assert moving.moves > 0
    assert moving.requests[3] < fixed.requests[3]
    # The slow one alone decides when nothing moves: the four together are 3.33 times as fast as one.
    assert moving.seconds < 0.6 * fixed.seconds
    assert moving.idle < 0.25 < fixed.idle
