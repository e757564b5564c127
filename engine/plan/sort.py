"""Sorting prompts: a quicksort of strings over the flat token buffer, common prefixes as its by-product.

The prompts of a group are compared with one of them, the pivot, to the first token that differs. How far each
agrees, and that token, order them and their neighbours' common prefixes; those that agree with each other
further than with the pivot make smaller groups, which go on behind what they are known to share. Tokens are
read in sequence, each a bounded number of times, and a prompt is looked up anew only O(log N) times as
expected over pivots, however long the shared prefixes. (Multikey quicksort, Bentley and Sedgewick, SODA 1997,
looks a prompt up anew for every branch of the tree on its path.)
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.arrays import frozen
from engine.jit import entry, njit

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.arrays import Int32, Int64, UInt64

ALONE_BELOW: Final = 20_000
"""Fewer prompts than this are sorted in the calling thread."""
MOST_ROUNDS: Final = 64
"""Most groups that all threads work on together; the rest are worked on side by side."""
FEW: Final = 24
"""Up to so many keys, an insertion sort is the faster one."""
BLOCK: Final = 16
"""Tokens compared without a branch: 64 bytes."""
MOST: Final = (1 << 31) - 1
"""More tokens than two prompts can share."""
PIVOT: Final = np.uint64(1 << 63)
"""Key of a prompt that equals the pivot."""


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sort_prompts(tokens: Int32, start: Int64, threads: int | None = None) -> tuple[Int32, Int32]:
    """Sort the prompts ``tokens[start[i]:start[i + 1]]``, i < N, lexicographically.

    Parameters
    ----------
    tokens
        int32, at least ``start[N]`` of them, none negative.
    start
        int64 [N + 1], not falling.
    threads
        Threads to use; None takes one per usable core.

    Returns
    -------
    (order, common)
        int32 [N]: request indices, equal prompts in input order; and int32 [N]: tokens that each sorted
        prompt shares with the one before it, 0 for the first.
    """
    tokens, n = frozen(tokens), start.shape[0] - 1
    order, keys = np.arange(n, dtype=np.int32), np.empty(n, np.uint64)
    common = np.zeros(n, np.int32)
    threads = usable_cores() if threads is None else threads
    everything = np.array([[0, n, 0]], np.int64)
    if threads == 1 or n < max(ALONE_BELOW, 2):
        _sort_groups(tokens, start, order, keys, common, everything)
        return order, common
    with ThreadPoolExecutor(threads) as pool:
        groups = _sort_large(pool, threads, tokens, start, order, keys, common)
        # Several parts per thread, so that a part with long common prefixes does not keep one thread alone.
        ends = np.cumsum(groups[:, 1] - groups[:, 0])
        goals = np.linspace(0, ends[-1] if len(ends) else 0, 16 * threads + 1)[1:-1]
        parts = np.split(groups, np.searchsorted(ends, goals))
        list(pool.map(lambda part: _sort_groups(tokens, start, order, keys, common, part), parts))
    return order, common


def _sort_large(
    pool: ThreadPoolExecutor,
    threads: int,
    tokens: Int32,
    start: Int64,
    order: Int32,
    keys: UInt64,
    common: Int32,
) -> Int64:
    """Cut the groups that would keep one thread busy for long, all threads together; return what is left."""
    large = order.shape[0] // (8 * threads)
    pending, left = [np.array([0, order.shape[0], 0], np.int64)], []
    for _ in range(MOST_ROUNDS):
        if not pending:
            break
        lo, hi, depth = (int(x) for x in pending.pop())
        pivot = int(order[_pick(lo, hi)])

        def compare(a: int, b: int, pivot: int = pivot, depth: int = depth) -> None:
            _compare(tokens, start, order, keys, a, b, pivot, depth)

        _each(pool, np.linspace(lo, hi, 4 * threads + 1).astype(np.int64), compare)
        middle = _partition(keys, order, lo, hi) if hi - lo > FEW else hi
        _each(pool, np.array([lo, middle, hi]), lambda a, b: sort_pairs(keys, order, a, b))
        children = np.empty(((hi - lo) // 2, 3), np.int64)
        children = children[: _cut(start, keys, common, lo, hi, pivot, depth, children, 0)]
        is_large = children[:, 1] - children[:, 0] > large
        pending.extend(children[is_large])
        left.append(children[~is_large])
    return np.concatenate([*left, *(group[None] for group in pending)])


def _each(pool: ThreadPoolExecutor, bounds: Int64, work: Callable[[int, int], object]) -> None:
    list(pool.map(work, bounds[:-1].tolist(), bounds[1:].tolist()))


@njit
def agreeing(tokens: Int32, a: int, b: int, limit: int) -> int:
    """Return how many tokens from places `a` and `b` on are equal before the first pair that differs."""
    n = 0
    while n + BLOCK <= limit:
        different = np.int32(0)
        for i in range(BLOCK):
            different |= np.int32(tokens[a + n + i] ^ tokens[b + n + i])
        if different != 0:
            break
        n += BLOCK
    while n < limit and tokens[a + n] == tokens[b + n]:
        n += 1
    return n


@entry()
def _pick(lo: int, hi: int) -> int:
    """Return a place of ``lo .. hi - 1``, as good as random, so that no common pattern makes it a bad one."""
    return int(lo + ((hi * 2654435761 + lo * 40503) >> 7) % (hi - lo))


@entry(frozen=("tokens",))
def _compare(
    tokens: Int32, start: Int64, order: Int32, keys: UInt64, lo: int, hi: int, pivot: int, depth: int
) -> None:
    """Set the key of each prompt of a group, which shares `depth` tokens with prompt `pivot`.

    With `c` further tokens in common and `t` the prompt's token behind them, plus one, or 0 at its end, the
    keys are in the order of the prompts: ``c 2^32 + t`` below the pivot, `PIVOT` for an equal prompt, and
    ``PIVOT + (MOST - c) 2^32 + t`` above it.
    """
    here, end = start[pivot] + depth, start[pivot + 1]
    for i in range(lo, hi):
        place, stop = start[order[i]] + depth, start[order[i] + 1]
        shared = agreeing(tokens, here, place, min(end - here, stop - place))
        mine = np.int64(tokens[place + shared]) + 1 if place + shared < stop else 0
        its = np.int64(tokens[here + shared]) + 1 if here + shared < end else 0
        if mine < its:
            keys[i] = np.uint64((shared << 32) + mine)
        elif mine > its:
            keys[i] = PIVOT + np.uint64(((MOST - shared) << 32) + mine)
        else:
            keys[i] = PIVOT


@entry(dims={"groups": 2})
def _cut(
    start: Int64,
    keys: UInt64,
    common: Int32,
    lo: int,
    hi: int,
    pivot: int,
    depth: int,
    groups: Int64,
    count: int,
) -> int:
    """Append the groups of a sorted group that share a token more than with the pivot; return their number.

    Sets `common` wherever it is known now, inside the group.
    """
    whole = start[pivot + 1] - start[pivot]
    i, before = lo, 0
    while i < hi:
        key = keys[i]
        j = i + 1
        while j < hi and keys[j] == key:
            j += 1
        if key == PIVOT:
            shared = whole
        elif key < PIVOT:
            shared = depth + np.int64(key >> np.uint64(32))
        else:
            shared = depth + MOST - np.int64((key - PIVOT) >> np.uint64(32))
        if i > lo:
            common[i] = min(before, shared)
        if key == PIVOT or key & np.uint64(0xFFFFFFFF) == 0:
            # They have ended here: equal prompts.
            for k in range(i + 1, j):
                common[k] = shared
        elif j - i > 1:
            groups[count, 0], groups[count, 1], groups[count, 2] = i, j, shared + 1
            count += 1
        i, before = j, shared
    return count


@entry(dims={"groups": 2}, frozen=("tokens",))
def _sort_groups(
    tokens: Int32, start: Int64, order: Int32, keys: UInt64, common: Int32, groups: Int64
) -> None:
    """Sort each group (first place, end, tokens known to be shared) and what comes of it."""
    largest = 0
    for g in range(groups.shape[0]):
        largest = max(largest, groups[g, 1] - groups[g, 0])
    # Open groups are disjoint and have two members or more.
    stack = np.empty((largest // 2 + 1, 3), np.int64)
    for g in range(groups.shape[0]):
        if groups[g, 1] - groups[g, 0] < 2:
            continue
        for field in range(3):
            # One by one: assigning a row compiles the words of an error about its shape, seven seconds of it.
            stack[0, field] = groups[g, field]
        top = 1
        while top > 0:
            top -= 1
            lo, hi, depth = stack[top, 0], stack[top, 1], stack[top, 2]
            pivot = order[_pick(lo, hi)]
            _compare(tokens, start, order, keys, lo, hi, pivot, depth)
            sort_pairs(keys, order, lo, hi)
            top = _cut(start, keys, common, lo, hi, pivot, depth, stack, top)


@njit
def _insert(keys: UInt64, values: Int32, lo: int, hi: int) -> None:
    for i in range(lo + 1, hi):
        key, value = keys[i], values[i]
        j = i - 1
        while j >= lo and (keys[j] > key or (keys[j] == key and values[j] > value)):
            keys[j + 1], values[j + 1] = keys[j], values[j]
            j -= 1
        keys[j + 1], values[j + 1] = key, value


@entry()
def _partition(keys: UInt64, values: Int32, lo: int, hi: int) -> int:
    """Put the smaller pairs of ``lo .. hi - 1`` before the larger ones; return where those begin.

    Both sides get at least one pair.
    """
    a, b, c = lo, _pick(lo, hi), hi - 1
    if keys[a] > keys[b]:
        a, b = b, a
    if keys[b] > keys[c]:
        b = c if keys[c] > keys[a] else a
    key, value = keys[b], values[b]
    i, j = lo - 1, hi
    keys[b], values[b] = keys[lo], values[lo]
    keys[lo], values[lo] = key, value
    while True:
        i += 1
        while keys[i] < key or (keys[i] == key and values[i] < value):
            i += 1
        j -= 1
        while keys[j] > key or (keys[j] == key and values[j] > value):
            j -= 1
        if i >= j:
            return int(j + 1)
        keys[i], keys[j] = keys[j], keys[i]
        values[i], values[j] = values[j], values[i]


@entry()
def sort_pairs(keys: UInt64, values: Int32, lo: int, hi: int) -> None:
    """Sort ``lo .. hi - 1`` of both arrays by key, then by value (all values different), in place."""
    for i in range(lo + 1, hi):
        if keys[i] < keys[i - 1] or (keys[i] == keys[i - 1] and values[i] < values[i - 1]):
            break
    else:
        return
    if hi - lo <= FEW:
        _insert(keys, values, lo, hi)
        return
    # The larger side waits, so the stack never holds more than log2 of the pairs.
    stack = np.empty((64, 2), np.int64)
    stack[0, 0], stack[0, 1], top = lo, hi, 1
    while top > 0:
        top -= 1
        lo, hi = stack[top, 0], stack[top, 1]
        while hi - lo > FEW:
            middle = _partition(keys, values, lo, hi)
            if middle - lo > hi - middle:
                stack[top, 0], stack[top, 1] = lo, middle
                lo = middle
            else:
                stack[top, 0], stack[top, 1] = middle, hi
                hi = middle
            top += 1
        _insert(keys, values, lo, hi)
