"""Shares of replicas, and what moves between them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL
from engine.plan.moves import Giver, divide, part_to_move
from engine.plan.tree import build_tree, distinct_tokens
from tests.support.simulated_nights import SHAPE, random_night

DEVICE = NOMINAL["a100"]


@given(st.integers(0, 50), st.integers(1, 5), st.data())
def test_every_request_is_in_one_part(seed: int, parts: int, data: st.DataObject) -> None:
    tokens, start, output, _ = random_night(seed, 50, 20, 1.0)
    n = len(output)
    some = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int32)
    found = divide(build_tree(tokens, start), some, output.astype(float), SHAPE, DEVICE, parts)
    assert len(found) == parts
    assert np.sort(np.concatenate(found)).tolist() == some.tolist()


def test_half_of_what_waits_moves_and_keeps_its_prefixes_together() -> None:
    rng = np.random.default_rng(1)
    groups, each, shared, own = 40, 8, 50, 5
    prompts = [
        np.concatenate((rng_prefix, rng.integers(0, 10**6, own)))
        for rng_prefix in rng.integers(0, 10**6, (groups, shared))
        for _ in range(each)
    ]
    tokens = np.concatenate(prompts).astype(np.int32)
    start = np.arange(groups * each + 1, dtype=np.int64) * (shared + own)
    output = rng.integers(4, 60, groups * each).astype(float)
    waiting = np.flatnonzero(rng.random(groups * each) < 0.7).astype(np.int32)
    part = part_to_move(build_tree(tokens, start), waiting, output, SHAPE, DEVICE)
    assert 0.3 * len(waiting) < len(part) < 0.7 * len(waiting)
    rest = np.setdiff1d(waiting, part)

    def distinct(chosen: np.ndarray) -> int:
        picked = [prompts[i] for i in chosen]
        bounds = np.concatenate(([0], np.cumsum([len(p) for p in picked])))
        return distinct_tokens(build_tree(np.concatenate(picked).astype(np.int32), bounds))

    # Few of the groups are cut in two; dealt out one by one, nearly all of them would be.
    again = distinct(part) + distinct(rest) - distinct(waiting)
    assert again < 0.25 * groups * shared


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 4), st.booleans(), st.data())
def test_whole_requests_are_given_or_none(seed: int, choices: int, known: bool, data: st.DataObject) -> None:
    tokens, start, output, _ = random_night(seed, 40, 20, 1.0)
    n = len(output)
    owner = [f"request {i // choices}" for i in range(n)]
    waiting = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True)), np.int32)
    running = data.draw(st.integers(0, n))
    tree = build_tree(tokens, start) if known else None
    found = Giver(owner, tokens, start, tree, SHAPE, DEVICE).part_of(waiting, running, output.astype(float))
    whole = [
        i for i in waiting.tolist() if {j for j in range(n) if owner[j] == owner[i]} <= {*waiting.tolist()}
    ]
    assert {*found.tolist()} <= {*whole}
    assert len(set(found.tolist())) == len(found)
    given_owners = {owner[i] for i in found}
    assert {*found.tolist()} == {i for i in range(n) if owner[i] in given_owners}
    if len(whole) <= running:
        assert not len(found)
    elif len(whole) >= 16 * choices:
        assert 0 < len(found) < len(whole)
