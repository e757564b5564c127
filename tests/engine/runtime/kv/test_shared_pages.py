"""Which decoding sequences are read as one: the same places as plain, and the groups that save most."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.cost.optimum import optimum
from engine.cost.step import NOMINAL, ModelShape, group_saving, step_cost
from engine.kernels.cascade_attention import SharedPages, shared_table
from engine.plan.policies import make_plan
from engine.runtime.core import EngineSettings
from engine.runtime.kv.shared_pages import find_groups, make_groups, make_room
from engine.simulate.simulate import simulate
from tests.support.models import flatten

SHAPE = ModelShape(body_parameters=7_000_000_000, head_parameters=500_000_000, layers=32, query_size=4096,
                   kv_bytes_per_token=131072, weight_bytes=15_000_000_000)  # fmt: skip
COST = step_cost(SHAPE, replace(NOMINAL["h200"], shared_read=0.1, shared_seconds=1e-5))
FREE = COST._replace(shared_member=0.0, shared_step=0.0)


def tables(prompts: list[tuple[int, ...]], own: list[int], page_size: int):
    """Block tables of sequences with these numbers as pages of their prompts, and some own tokens after."""
    nodes: dict[tuple[int, ...], int] = {}
    rows = []
    for prompt, tokens in zip(prompts, own, strict=True):
        row = [nodes.setdefault(prompt[: i + 1], len(nodes)) for i in range(len(prompt))]
        rows.append([*row, *(-1 for _ in range(-(-tokens // page_size)))])
    free = len(nodes)
    pages = np.full((len(rows), max(map(len, rows)) + 1), -99, np.int32)
    for i, row in enumerate(rows):
        for j, page in enumerate(row):
            pages[i, j] = page if page >= 0 else free
            free += page < 0
    context = np.array([len(p) * page_size + n for p, n in zip(prompts, own, strict=True)], np.int32)
    return pages, context, free


def found(pages, context, free, page_size, cost, slot=None):
    """The groups, as lists, and what they save; the buffers hold nonsense before."""
    count = len(context)
    slot = np.arange(count, dtype=np.int32) if slot is None else slot
    room, groups = make_room(count + 3, free), make_groups(count + 3)
    for array in (*room, *groups):
        array[...] = 10**6
    saved = find_groups(pages, slot, context, count, page_size, cost, room, groups)
    start = groups.start.tolist()
    members = [groups.members[a:b].tolist() for a, b in pairwise(start)]
    return [m for m in members if m], groups, saved


def best(pages, context, page_size, cost) -> float:
    """The most that disjoint groups can save, each of all that have its pages, by trying every choice."""
    whole = (context - 1) // page_size
    options = []
    for n in range(2, len(context) + 1):
        for rows in combinations(range(len(context)), n):
            limit = min(whole[list(rows)])
            same = (pages[list(rows), :limit] == pages[rows[0], :limit]).all(0)
            depth = int(np.append(same, False).argmin())
            gain = group_saving(cost, float(n), float(depth * page_size)) if depth else 0.0
            others = (pages[:, :depth] == pages[rows[0], :depth]).all(1) & (whole >= depth)
            if gain > 0 and others.sum() == n:
                options.append((frozenset(rows), gain))

    def search(first: int, used: frozenset[int]) -> float:
        choices = (
            gain + search(i + 1, used | rows)
            for i, (rows, gain) in enumerate(options[first:], first)
            if not rows & used
        )
        return max(choices, default=0.0)

    return max(0.0, search(0, frozenset()) - cost.shared_step)


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), max_size=4).map(tuple), st.integers(1, 9)), min_size=1
)


@given(PROMPTS.filter(lambda rows: len(rows) <= 6), st.sampled_from([1, 4]), st.floats(0, 1), st.floats(0, 9))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_groups_are_those_that_save_most(rows, page_size, kept, member) -> None:
    pages, context, free = tables([p for p, _ in rows], [n for _, n in rows], page_size)
    cost = COST._replace(shared_read=kept, shared_member=member, shared_step=1.0)
    groups, _, saved = found(pages, context, free, page_size, cost)
    assert saved == pytest.approx(best(pages, context, page_size, cost), abs=1e-9)
    assert (saved > 0) == bool(groups)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), max_size=9).map(tuple), st.integers(1, 40)), min_size=1),
    st.sampled_from([1, 4, 16]),
    st.randoms(),
)
@hypothesis_settings(max_examples=100, deadline=None)
def test_cascade_reads_the_places_that_plain_reads(rows, page_size, random) -> None:
    pages, context, free = tables([p for p, _ in rows], [n for _, n in rows], page_size)
    slot = np.array(random.sample(range(len(rows)), len(rows)), np.int32)
    table, context = pages[slot], context[slot]
    lists, groups, _ = found(pages, context, free, page_size, FREE, slot)
    count = len(rows)
    assert sorted(m for g in lists for m in g) == sorted({m for g in lists for m in g})
    assert set(np.flatnonzero(groups.shared).tolist()) == {m for g in lists for m in g}
    assert all(len(g) > 1 and len({int(groups.shared[m]) for m in g}) == 1 for g in lists)
    # At least one place is left to each sequence, that of its newest token.
    assert (groups.shared[:count] * page_size < context).all()
    given_pages = SharedPages(*(torch.from_numpy(x) for x in groups))._replace(
        shared=torch.from_numpy(groups.shared[:count]), members=torch.from_numpy(groups.members[:count])
    )
    read = shared_table(torch.from_numpy(table), given_pages).numpy()
    for i in range(count):
        used = -(-context[i] // page_size)
        assert (read[i, :used] == table[i, :used]).all()


def test_a_large_group_near_the_root_or_small_ones_far_from_it() -> None:
    system, many = tuple(range(4)), 40
    few = [system + tuple(range(100 * (i // 8), 100 * (i // 8) + 60)) for i in range(many)]
    pages, context, free = tables(few, [17] * many, 16)
    groups, read, saved = found(pages, context, free, 16, COST)
    assert [len(g) for g in groups] == [8] * 5
    assert read.shared[0] == 64
    tokens = sum(group_saving(COST, 8.0, 64.0 * 16) for _ in range(5))
    assert saved == pytest.approx(tokens - COST.shared_step)
    # With little beyond a longer system prompt all of them are one group, and rows with a shorter prompt too.
    system = tuple(range(30))
    near = [(*system, 1000 + i // 8) for i in range(many)] + [system]
    groups, read, _ = found(*tables(near, [17] * len(near), 16), 16, COST._replace(shared_step=0.0))
    assert [len(g) for g in groups] == [len(near)]
    assert set(read.shared[: len(near)].tolist()) == {30}


def test_the_simulator_counts_shared_pages_once_where_the_device_does() -> None:
    prompts, answer, n = [[*range(4, 68), 100 + i] for i in range(8)], 30, 8
    tokens, start = flatten(prompts)
    output = np.full(n, answer, np.int32)
    settings = EngineSettings(kv_tokens=2000, page_size=16, token_budget=400, max_sequences=n)
    plan = make_plan("dfs", tokens, start, output.astype(np.float64), SHAPE, NOMINAL["h200"], seed=1)
    runs = {
        kept: simulate(plan, tokens, start, output, settings, FREE._replace(shared_read=kept), record=True)
        for kept in (1.0, 0.25)
    }
    plain, shared = (run.trace for run in runs.values())
    assert np.delete(plain, 3, 1).tolist() == np.delete(shared, 3, 1).tolist()
    # All decode together but in the first steps; 7 of 8 read three quarters less of 64 tokens.
    together = plain[:, 5] == n
    assert together.sum() > 20
    assert runs[1.0].jumped > 0
    assert set((plain - shared)[together, 3].tolist()) == {7 * 48}
    assert runs[0.25].seconds < runs[1.0].seconds
    bound = {
        run: optimum(FREE._replace(shared_read=run), *(np.array(x) for x in ([65.0] * n, [0.0] + [64.0] * 7)),
                     output.astype(np.float64), 2000.0)
        for run in runs
    }  # fmt: skip
    assert bound[0.25].kv_read < bound[1.0].kv_read
    assert all(bound[kept].practical <= run.seconds for kept, run in runs.items())


def test_what_is_not_worth_it_is_read_as_before() -> None:
    two = tables([(1, 2), (1, 2)], [5, 5], 16)
    assert found(*two, 16, FREE)[0] == [[0, 1]]
    # Too little for the launches, too little for the members' results, and a device that gains nothing.
    assert found(*two, 16, COST)[0] == []
    assert found(*two, 16, FREE._replace(shared_member=20.0))[0] == []
    assert found(*two, 16, step_cost(SHAPE, NOMINAL["h200"]))[0] == []
    # Nobody has a whole page before its newest token.
    assert found(*tables([(1,), (1,)], [0, 0], 16), 16, FREE)[0] == []


def test_of_a_long_chain_of_prompts_the_beginning_is_looked_at() -> None:
    chain = [tuple(range(i + 1)) for i in range(60)]
    groups, read, saved = found(*tables(chain, [5] * 60, 4), 4, FREE)
    assert [len(g) for g in groups] == [43]
    assert read.shared.max() == 18
    assert saved > 0.0


def test_the_costs_of_a_step_are_those_of_the_profile() -> None:
    # 4 bytes x 4096 x 32 elements written and read, in tokens of 131072 bytes; 32 layers of 10 us each.
    assert COST.shared_member == 8.0
    assert COST.shared_step == pytest.approx(32 * 1e-5 * NOMINAL["h200"].read_bytes / 131072)
    assert group_saving(COST, 5.0, 1000.0) == pytest.approx(4 * 900.0 - 40.0)
