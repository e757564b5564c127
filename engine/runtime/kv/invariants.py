"""The invariants of the page pool, looked up one by one; `engine.runtime.kv.pages` says what they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.runtime.kv.pages import (
    CACHED,
    FREE,
    LARGER,
    N_CACHED,
    N_FREE,
    N_LRU,
    NONE,
    PRIVATE,
    ROOT,
    SMALLER,
)

if TYPE_CHECKING:
    from engine.runtime.kv.pages import PagePool


def check(pool: PagePool) -> None:
    """Verify every invariant of the pool; for tests and debugging (cost O(pages)).

    Raises
    ------
    AssertionError
        Naming the broken invariant.
    """
    n = pool.free.shape[0]
    free = set(pool.free[: pool.counts[N_FREE]].tolist())
    _require(len(free) == pool.counts[N_FREE], "a page is twice on the free stack")
    _require({p for p in range(n) if pool.state[p] == FREE} == free, "free stack and states disagree")
    listed, node = [], int(pool.lru_next[n])
    while node != n:
        listed.append(node)
        _require(len(listed) <= n, "the LRU list has a cycle")
        node = int(pool.lru_next[node])
    _require(len(listed) == pool.counts[N_LRU], "LRU count is wrong")
    idle = {p for p in range(n) if pool.state[p] == CACHED and pool.ref[p] == 0}
    _require(set(listed) == idle, "the LRU list is not the set of unheld nodes")
    order = {p: i for i, p in enumerate(listed)}
    children = np.zeros(n + 1, np.int64)
    alone = np.zeros_like(pool.alone)
    for page in range(n):
        _require(pool.ref[page] >= 0, "negative reference count")
        if pool.state[page] == FREE:
            _require(pool.ref[page] == 0, "a free page is held")
        if pool.state[page] == PRIVATE:
            _require(pool.ref[page] == 1, "a private page is not held exactly once")
        if pool.ref[page] == 1:
            alone[pool.holder[page]] += 1
        if pool.state[page] != CACHED:
            continue
        parent = int(pool.parent[page])
        children[parent] += 1
        _require(parent == n or pool.state[parent] == CACHED, "parent is not in the tree")
        _require(pool.length[page] > 0, "an empty node")
        _require(0 <= pool.ready[page] <= pool.length[page], "ready tokens out of range")
        if parent != n:
            _require(pool.ref[parent] >= pool.ref[page], "a node is held without its parent")
            _require(pool.length[parent] == pool.tokens.shape[1], "a partial page has children")
        if pool.ref[page] == 0:
            _require(bool(pool.ready[page] == pool.length[page]), "an unheld node is incomplete")
            _require(parent not in order or order[parent] > order[page], "a parent precedes its child in LRU")
    _require(bool((alone == pool.alone).all()), "counts of pages held alone are wrong")
    for page in range(n + 1):
        if page == n or pool.state[page] == CACHED:
            found = _in_order(pool, int(pool.links[page, ROOT]))
            _require(all(int(pool.parent[p]) == page for p in found), "a child is in another page's tree")
            keys = [tuple(pool.tokens[p, : pool.length[p]].tolist()) for p in found]
            _require(keys == sorted(set(keys)), "children are out of order")
            _require(len(found) == children[page], "a child is missing from its parent's tree")
    _require(bool((children == pool.children).all()), "child counts are wrong")
    _require(int(children.sum()) == pool.counts[N_CACHED], "count of nodes is wrong")


def _in_order(pool: PagePool, node: int) -> list[int]:
    if node == NONE:
        return []
    low, high = (int(pool.links[node, link]) for link in (SMALLER, LARGER))
    return [*_in_order(pool, low), node, *_in_order(pool, high)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
