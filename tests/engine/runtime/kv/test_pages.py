"""The page pool against a naive model: a dict from the tokens of a whole path to its page."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.runtime.kv.invariants import check
from engine.runtime.kv.pages import (
    CACHED,
    N_CACHED,
    N_EVICTED,
    N_FREE,
    N_LRU,
    NONE,
    available,
    hold,
    insert,
    make_pool,
    match,
    release,
    take_page,
)


def common_prefix(a, b) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


class Model:
    """A pool beside a plain account of what it should hold."""

    def __init__(self, pages: int, size: int) -> None:
        self.pool, self.pages, self.size = make_pool(pages, size, 64), pages, size
        self.nodes: dict[tuple, int] = {}
        self.refs: dict[int, int] = {}
        self.ready: set[int] = set()
        self.idle_since: dict[tuple, int] = {}
        self.clock = 0
        self.evictions = 0
        # Holder numbers: in use, and the one that acts.
        self.holders: dict[int, set[int]] = {}
        self.me = 0
        self.sessions: list[tuple] = []

    def match(self, prompt: tuple) -> tuple[list[int], int, int]:
        path = np.full(len(prompt) // self.size + 1, -7, np.int32)
        full, boundary, common = match(self.pool, np.array(prompt, np.int32), path)
        longest = max((common_prefix(prompt, key) for key in self.nodes), default=0)
        assert full * self.size + common == longest
        pages = path[:full].tolist()
        assert pages == [self.nodes[prompt[: (i + 1) * self.size]] for i in range(full)]
        if common:
            key = next(k for k, page in self.nodes.items() if page == boundary)
            assert key[:longest] == prompt[:longest]
            assert (len(key) - 1) // self.size == full
        else:
            assert boundary == NONE
        return pages, boundary, common

    def key_of(self, page: int) -> tuple | None:
        return next((key for key, p in self.nodes.items() if p == page), None)

    def hold(self, page: int) -> None:
        hold(self.pool, page, self.me)
        self.holders.setdefault(self.me, set()).add(page)
        self.refs[page] = self.refs.get(page, 0) + 1
        self.idle_since.pop(self.key_of(page), None)

    def release(self, page: int) -> None:
        release(self.pool, page, self.me)
        self.holders[self.me].remove(page)
        self.refs[page] -= 1
        if self.refs[page]:
            return
        del self.refs[page]
        key = self.key_of(page)
        if key is not None and page in self.ready:
            self.clock += 1
            self.idle_since[key] = self.clock
        elif key is not None:
            del self.nodes[key]

    def take(self) -> int:
        used = len(self.refs) + len(self.idle_since)
        page = take_page(self.pool, self.me)
        if used == self.pages:
            if not self.idle_since:
                assert page == NONE
                return NONE
            oldest = min(self.idle_since, key=self.idle_since.__getitem__)
            assert page == self.nodes[oldest]
            # Only whole pages have descendants.
            whole = len(oldest) % self.size == 0
            below = [k for k in self.nodes if whole and k != oldest and k[: len(oldest)] == oldest]
            assert not below, "not a leaf"
            del self.nodes[oldest], self.idle_since[oldest]
            self.evictions += 1
        assert page not in self.refs
        self.refs[page] = 1
        self.holders.setdefault(self.me, set()).add(page)
        self.ready.discard(page)
        return page

    def start(self, prompt: tuple) -> None:
        """Look a prompt up, hold what is found and put the rest into the tree, as admission does."""
        self.me = next(i for i in range(64) if not self.holders.get(i))
        full, boundary, common = self.match(prompt)
        duplicate = len(full) * self.size + common == len(prompt)
        for page in full:
            self.hold(page)
        if boundary != NONE:
            self.hold(boundary)
        held = full + ([boundary] if boundary != NONE else [])
        wanted = -(-len(prompt) // self.size) - len(full)
        if wanted > available(self.pool):
            for page in reversed(held):
                self.release(page)
            return
        path = list(full)
        for i in range(len(full), len(full) + wanted):
            page = self.take()
            if not duplicate:
                key = prompt[: (i + 1) * self.size]
                insert(self.pool, page, path[-1] if path else NONE, np.array(key[i * self.size :], np.int32))
                self.nodes[key] = page
            path.append(page)
        if boundary != NONE:
            self.release(boundary)
        self.sessions.append((self.me, path))

    def stop(self, which: int, complete: bool) -> None:
        self.me, path = self.sessions.pop(which % len(self.sessions))
        if complete:
            # Whoever has computed the end of a prompt has seen all of it computed.
            for page in path:
                self.pool.ready[page] = self.pool.length[page]
                self.ready.add(page)
        for page in reversed(path):
            self.release(page)

    def verify(self) -> None:
        check(self.pool)
        n = self.pages
        assert {p: int(r) for p, r in enumerate(self.pool.ref[:n]) if r} == self.refs
        alone = [sum(self.refs[p] == 1 for p in self.holders.get(i, ())) for i in range(64)]
        assert self.pool.alone.tolist() == alone
        assert set(np.flatnonzero(self.pool.state[:n] == CACHED)) == set(self.nodes.values())
        assert self.pool.counts[N_CACHED] == len(self.nodes)
        assert self.pool.counts[N_LRU] == len(self.idle_since)
        assert self.pool.counts[N_FREE] == n - len(self.refs) - len(self.idle_since)
        assert self.pool.counts[N_EVICTED] == self.evictions


PROMPT = st.lists(st.integers(0, 1), min_size=1, max_size=9).map(tuple)
OPERATION = st.one_of(
    PROMPT, st.tuples(st.just("stop"), st.integers(0, 5), st.sampled_from([True, True, False]))
)


@settings(max_examples=250, deadline=None)
@given(st.integers(3, 14), st.integers(1, 4), st.lists(OPERATION, max_size=40))
def test_any_sequence_of_operations(pages: int, size: int, operations: list[tuple]) -> None:
    model = Model(pages, size)
    for operation in operations:
        if operation[0] != "stop":
            model.start(operation)
        elif model.sessions:
            model.stop(operation[1], operation[2])
        model.verify()
    while model.sessions:
        model.stop(0, complete=True)
        model.verify()
    assert (model.pool.ref == 0).all()
    assert available(model.pool) == pages
    # Nothing leaked: every page can be taken, once.
    assert sorted(model.take() for _ in range(pages)) == list(range(pages))
    assert model.take() == NONE
    model.verify()


def test_a_long_run_evicts_and_finds() -> None:
    rng = np.random.default_rng(0)
    model = Model(24, 4)
    for _ in range(1500):
        if model.sessions and (len(model.sessions) > 4 or rng.random() < 0.45):
            model.stop(int(rng.integers(9)), complete=rng.random() < 0.8)
        else:
            length = int(rng.integers(1, 20))
            model.start(tuple((rng.random(length) < 0.15).astype(int).tolist()))
    model.verify()
    assert model.evictions > 100


def test_eviction_takes_leaves_first_and_the_least_recently_used_branch() -> None:
    model = Model(6, 2)
    for prompt in ((1, 1, 2, 2, 3, 3), (1, 1, 4, 4, 5, 5)):
        model.start(prompt)
        model.stop(0, complete=True)
    # The second run refreshed page (1, 1); touching the first branch makes the second one the oldest.
    model.start((1, 1, 2, 2, 3, 3))
    model.stop(0, complete=True)
    assert model.take() != NONE  # the one free page
    gone = []
    for _ in range(5):
        before = set(model.nodes)
        model.take()
        gone += before - set(model.nodes)
    assert gone == [(1, 1, 4, 4, 5, 5), (1, 1, 4, 4), (1, 1, 2, 2, 3, 3), (1, 1, 2, 2), (1, 1)]
    model.verify()


def test_an_incomplete_page_is_not_left_in_the_tree() -> None:
    model = Model(4, 2)
    model.start((1, 2, 3))
    model.stop(0, complete=False)
    model.verify()
    assert model.match((1, 2, 3)) == ([], NONE, 0)
    assert model.pool.counts[N_FREE] == 4
