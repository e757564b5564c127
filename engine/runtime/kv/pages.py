"""KV pages and the radix cache over them, in flat arrays.

A page holds the KV of up to `page_size` consecutive tokens. The radix cache is a tree in which **every node
is one page** (node id = page id), so nothing is ever split: two prompts that part inside a page have two
sibling nodes, and a hit that ends inside a page is copied on write. Reuse is therefore exact to the token.

States of a page
    free        on the free stack
    private     held by one sequence, not in the tree (generated tokens)
    cached      in the tree; `ref` running sequences hold it. At ref 0 it is in the LRU list: evictable.

Invariants (verified by `engine.runtime.kv.invariants.check`)
    - whoever holds a node holds all its ancestors, so an unheld node has only unheld descendants;
    - sequences release their pages from the leaf up, so in the LRU list children come before their parent
      and the oldest entry is always a leaf: eviction is O(1);
    - an unheld node is complete: `ready == length`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.jit import entry, njit_in_place
from engine.jit_types import struct

if TYPE_CHECKING:
    from engine.arrays import Int32, Int64

NONE = -1
FREE, PRIVATE, CACHED = 0, 1, 2
# Columns of `PagePool.links`.
ROOT, SMALLER, LARGER = 0, 1, 2
# Indices into `PagePool.counts`.
N_FREE, N_LRU, N_EVICTED, N_CACHED = 0, 1, 2, 3


@struct(dims={"tokens": 2, "links": 2})
class PagePool(NamedTuple):
    """All state of the pages; row `n` (one past the last page) is the root of the tree.

    Attributes
    ----------
    counts
        int64 [4]: free pages, evictable pages, evictions so far, pages in the tree.
    free
        int32 [n]: the free stack; the first ``counts[N_FREE]`` entries are valid.
    state, ref, length, ready, owner, parent, children
        int32 [n + 1] per page: its state; sequences that hold it; tokens it stands for; tokens whose KV is
        stored; the slot that computes it (or NONE); parent page; number of children in the tree.
    ready_step
        int64 [n + 1]: the step in which `ready` last grew.
    tokens
        int32 [n + 1, page_size]: the tokens of a node.
    links
        int32 [n + 1, 3]: the search tree of each page's children (see `_goes_before`): its root, and as a
        member of its parent's tree the smaller and the larger subtree.
    lru_next, lru_prev
        int32 [n + 1]: the LRU list, oldest first, closed through row `n`.
    holder
        int32 [n + 1]: exclusive or of the numbers of all holders; with one holder, its number.
    alone
        int32 [holders]: how many pages each holder holds that nobody else does: what its end frees.
    """

    counts: Int64
    free: Int32
    state: Int32
    ref: Int32
    length: Int32
    ready: Int32
    owner: Int32
    parent: Int32
    children: Int32
    ready_step: Int64
    tokens: Int32
    links: Int32
    lru_next: Int32
    lru_prev: Int32
    holder: Int32
    alone: Int32


def make_pool(pages: int, page_size: int, holders: int) -> PagePool:
    """Return a pool of `pages` free pages of `page_size` tokens each, for holders ``0 .. holders - 1``."""
    rows = pages + 1
    counts = np.zeros(4, np.int64)
    counts[N_FREE] = pages
    lru_next, lru_prev = np.full(rows, NONE, np.int32), np.full(rows, NONE, np.int32)
    lru_next[pages] = lru_prev[pages] = pages
    return PagePool(
        counts=counts,
        free=np.arange(pages - 1, -1, -1, dtype=np.int32),
        state=np.zeros(rows, np.int32),
        ref=np.zeros(rows, np.int32),
        length=np.zeros(rows, np.int32),
        ready=np.zeros(rows, np.int32),
        owner=np.full(rows, NONE, np.int32),
        parent=np.full(rows, NONE, np.int32),
        children=np.zeros(rows, np.int32),
        ready_step=np.full(rows, NONE, np.int64),
        tokens=np.zeros((rows, page_size), np.int32),
        links=np.full((rows, 3), NONE, np.int32),
        lru_next=lru_next,
        lru_prev=lru_prev,
        holder=np.zeros(rows, np.int32),
        alone=np.zeros(holders, np.int32),
    )


@entry(in_place=True)
def available(pool: PagePool) -> int:
    """Return how many pages can be taken now: the free ones and the evictable ones."""
    return int(pool.counts[N_FREE] + pool.counts[N_LRU])


@njit_in_place
def held(pool: PagePool) -> int:
    """Return how many pages are held."""
    return int(pool.free.shape[0]) - available(pool)


@njit_in_place
def _goes_before(pool: PagePool, node: int, tokens: Int32) -> tuple[bool, int]:
    """Compare `tokens` with those of `node`: whether they go before, and how many they share.

    The children of a page are a search tree in lexicographic order, balanced like a treap with a hash of the
    page number as priority. Thousands of prompts may part in the middle of one page; the child that shares
    most with a prompt lies on the path that a search for the prompt takes.
    """
    limit = min(tokens.shape[0], pool.length[node])
    same = 0
    while same < limit and tokens[same] == pool.tokens[node, same]:
        same += 1
    if same < limit:
        return bool(tokens[same] < pool.tokens[node, same]), same
    return bool(tokens.shape[0] < pool.length[node]), same


@njit_in_place
def _priority(page: int) -> int:
    return ((page + 1) * 2654435761) & 0xFFFFFFFF


@njit_in_place
def _tree_insert(pool: PagePool, page: int, parent: int, tokens: Int32) -> None:
    links = pool.links
    at, link = parent, ROOT
    node = links[at, link]
    while node != NONE and _priority(node) > _priority(page):
        before, _ = _goes_before(pool, node, tokens)
        at, link = node, SMALLER if before else LARGER
        node = links[at, link]
    links[at, link] = page
    # Split what was there into the parts before and after the new node.
    low, low_link, high, high_link = page, SMALLER, page, LARGER
    while node != NONE:
        before, _ = _goes_before(pool, node, tokens)
        if before:
            links[high, high_link] = node
            high, high_link = node, SMALLER
            node = links[node, SMALLER]
        else:
            links[low, low_link] = node
            low, low_link = node, LARGER
            node = links[node, LARGER]
    links[low, low_link] = NONE
    links[high, high_link] = NONE


@njit_in_place
def _lru_remove(pool: PagePool, page: int) -> None:
    before, after = pool.lru_prev[page], pool.lru_next[page]
    pool.lru_next[before] = after
    pool.lru_prev[after] = before
    pool.lru_next[page] = NONE
    pool.lru_prev[page] = NONE
    pool.counts[N_LRU] -= 1


@njit_in_place
def _lru_append(pool: PagePool, page: int) -> None:
    end = pool.free.shape[0]
    last = pool.lru_prev[end]
    pool.lru_next[last] = page
    pool.lru_prev[page] = last
    pool.lru_next[page] = end
    pool.lru_prev[end] = page
    pool.counts[N_LRU] += 1


@njit_in_place
def _tree_remove(pool: PagePool, page: int) -> None:
    links, parent = pool.links, pool.parent[page]
    tokens = pool.tokens[page, : pool.length[page]]
    at, link = parent, ROOT
    while links[at, link] != page:
        node = links[at, link]
        before, _ = _goes_before(pool, node, tokens)
        at, link = node, SMALLER if before else LARGER
    low, high = links[page, SMALLER], links[page, LARGER]
    while low != NONE and high != NONE:
        if _priority(low) > _priority(high):
            links[at, link] = low
            at, link = low, LARGER
            low = links[low, LARGER]
        else:
            links[at, link] = high
            at, link = high, SMALLER
            high = links[high, SMALLER]
    links[at, link] = low if low != NONE else high
    pool.children[parent] -= 1
    pool.counts[N_CACHED] -= 1


@njit_in_place
def _make_free(pool: PagePool, page: int) -> None:
    pool.state[page] = FREE
    pool.owner[page] = NONE
    pool.length[page] = 0
    pool.ready[page] = 0
    pool.free[pool.counts[N_FREE]] = page
    pool.counts[N_FREE] += 1


@njit_in_place
def take_page(pool: PagePool, holder: int) -> int:
    """Take a page as private, held by `holder` alone, evicting the least recently used node if none is free.

    Returns NONE if every page is held.
    """
    if pool.counts[N_FREE] == 0:
        oldest = int(pool.lru_next[pool.free.shape[0]])
        if oldest == pool.free.shape[0]:
            return NONE
        _lru_remove(pool, oldest)
        _tree_remove(pool, oldest)
        _make_free(pool, oldest)
        pool.counts[N_EVICTED] += 1
    pool.counts[N_FREE] -= 1
    page = pool.free[pool.counts[N_FREE]]
    pool.state[page] = PRIVATE
    pool.ref[page] = 1
    pool.holder[page] = holder
    pool.alone[holder] += 1
    pool.owner[page] = NONE
    pool.length[page] = 0
    pool.ready[page] = 0
    pool.ready_step[page] = NONE
    return int(page)


@njit_in_place
def insert(pool: PagePool, page: int, parent: int, tokens: Int32) -> None:
    """Put a private page into the tree below `parent` (NONE: the root), standing for `tokens`."""
    if parent == NONE:
        parent = pool.free.shape[0]
    _tree_insert(pool, page, parent, tokens)
    pool.parent[page] = parent
    pool.children[parent] += 1
    pool.children[page] = 0
    pool.links[page, ROOT] = NONE
    pool.state[page] = CACHED
    pool.length[page] = tokens.shape[0]
    for i in range(tokens.shape[0]):
        pool.tokens[page, i] = tokens[i]
    pool.counts[N_CACHED] += 1


@njit_in_place
def match(pool: PagePool, tokens: Int32, path: Int32) -> tuple[int, int, int]:
    """Walk the tree along `tokens`.

    Parameters
    ----------
    tokens
        int32 [n], the prompt.
    path
        int32, at least n // page_size long; receives the fully matched pages in order.

    Returns
    -------
    (full, boundary, common)
        Number of pages written to `path`; the child of the last one that shares most of what follows
        (NONE if nothing does), and how many tokens it shares.
    """
    size = pool.tokens.shape[1]
    parent = pool.free.shape[0]
    full = 0
    while True:
        start = full * size
        rest = tokens.shape[0] - start
        if rest <= 0:
            return full, NONE, 0
        best, common = NONE, 0
        wanted = tokens[start : start + min(rest, size)]
        node = pool.links[parent, ROOT]
        while node != NONE:
            before, same = _goes_before(pool, node, wanted)
            if same > common:
                best, common = node, same
                if common == size:
                    break
            node = pool.links[node, SMALLER if before else LARGER]
        if common < size:
            return full, int(best), common
        path[full] = best
        parent = best
        full += 1


@njit_in_place
def hold(pool: PagePool, page: int, holder: int) -> None:
    """Add `holder`, which must not hold it yet, to the holders of a cached page."""
    if pool.ref[page] == 0:
        _lru_remove(pool, page)
        pool.alone[holder] += 1
        pool.holder[page] = 0
    elif pool.ref[page] == 1:
        pool.alone[pool.holder[page]] -= 1
    pool.ref[page] += 1
    pool.holder[page] ^= holder


@njit_in_place
def release(pool: PagePool, page: int, holder: int) -> None:
    """Take `holder` off a page. Callers release a sequence's pages from the last to the first.

    At ref 0 a complete node becomes evictable; a private page or a node that was never completed is freed.
    """
    pool.ref[page] -= 1
    pool.holder[page] ^= holder
    if pool.ref[page] > 0:
        if pool.ref[page] == 1:
            pool.alone[pool.holder[page]] += 1
        return
    pool.alone[holder] -= 1
    if pool.state[page] == CACHED and pool.ready[page] == pool.length[page]:
        pool.owner[page] = NONE
        _lru_append(pool, page)
        return
    if pool.state[page] == CACHED:
        _tree_remove(pool, page)
    _make_free(pool, page)
