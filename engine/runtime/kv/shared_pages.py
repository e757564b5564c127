"""Finds the decoding sequences of a step that share their first pages, and which of them are read as one.

Pages are nodes of the radix cache (`engine.runtime.kv.pages`): sequences with the same page at a place have
the same pages at all places before it. So the step's sequences form a tree, whose nodes are found by looking
at few pages of each sequence. A group is a whole node: all sequences that have its pages. Which nodes become
groups, near the root with many sequences or far from it with many pages, is what saves most by the cost model
(`engine.cost.step`); sequences that are left over beside a smaller group are read one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from engine.cost.step import group_saving
from engine.jit import entry, njit_in_place
from engine.jit_types import struct
from engine.runtime.state import W_SEQUENCES

if TYPE_CHECKING:
    from engine.arrays import Float64, Int32
    from engine.cost.step import StepCost
    from engine.runtime.state import Work

_NONE = -1
MOST_VISITS: Final = 16
"""How often a sequence is looked at on average before nodes further down are left alone: prompts of which
each continues the one before make a chain of as many nodes as there are sequences."""


@struct()
class Groups(NamedTuple):
    """What `find_groups` finds, as `engine.kernels.cascade_attention.SharedPages` has it on the device.

    Attributes
    ----------
    shared, members, start
        int32 [R], [R], [R + 1].
    """

    shared: Int32
    members: Int32
    start: Int32


@struct()
class Room(NamedTuple):
    """Scratch memory of `find_groups` for up to R sequences.

    Attributes
    ----------
    order, spare, limit
        int32 [R]: the sequences, those of a node beside each other; and whole pages before the last token.
    begin, end, depth, parent, page
        int32 [2 R + 2] per node: its sequences, how many pages they share, the node above, and the page by
        which the node differs from its siblings.
    gain, below
        float64 [2 R + 2] per node: tokens saved if it is a group, and the best that nodes below it save.
    mark
        int32 [pages]: the node that each page led to last.
    """

    order: Int32
    spare: Int32
    limit: Int32
    begin: Int32
    end: Int32
    depth: Int32
    parent: Int32
    page: Int32
    gain: Float64
    below: Float64
    mark: Int32


def make_groups(sequences: int) -> Groups:
    """Return groups of up to so many sequences, none so far."""
    return Groups(*(np.zeros(sequences + extra, np.int32) for extra in (0, 0, 1)))


def make_room(sequences: int, pages: int) -> Room:
    """Return scratch memory for so many sequences on pages with numbers below `pages`."""
    order, spare, limit = np.zeros((3, sequences), np.int32)
    begin, end, depth, parent, page = np.zeros((5, 2 * sequences + 2), np.int32)
    gain, below = np.zeros((2, 2 * sequences + 2), np.float64)
    mark = np.zeros(pages, np.int32)
    return Room(order, spare, limit, begin, end, depth, parent, page, gain, below, mark)


@entry(in_place=True)
def leading_single_rows(work: Work) -> int:
    """Return how many sequences at the front have one row each: those that decode attention takes."""
    count = 0
    while count < work.size[W_SEQUENCES] and work.length[count] == 1:
        count += 1
    return int(count)


@entry(in_place=True, dims={"pages": 2})
def find_groups(
    pages: Int32,
    slot: Int32,
    context: Int32,
    count: int,
    page_size: int,
    cost: StepCost,
    room: Room,
    groups: Groups,
) -> float:
    """Fill `groups` with what is worth reading once, and return how many tokens of KV the step saves by it.

    Parameters
    ----------
    pages
        int32 [S, P]: the block tables.
    slot, context
        int32 [at least count]: row of each decoding sequence in the tables, and its tokens, this step's
        included. The page of this step's token is its own.
    cost
        Of reading shared pages once; with its `shared_read` of 1 nothing is ever worth it.

    Returns
    -------
    float
        Tokens not read anew, less what reading them apart costs; 0 if there are no groups.
    """
    groups.shared[:] = 0
    groups.start[:] = 0
    if cost.shared_read >= 1.0:
        return 0.0
    nodes = _make_tree(pages, slot, context, count, page_size, room)
    room.below[:nodes] = 0.0
    for k in range(nodes - 1, 0, -1):
        size = room.end[k] - room.begin[k]
        room.gain[k] = group_saving(cost, float(size), float(room.depth[k] * page_size))
        room.below[room.parent[k]] += max(room.gain[k], room.below[k])
    if room.below[0] <= cost.shared_step:
        return 0.0
    n = members = 0
    # From here on a depth below 0 says that a node is in a group, by itself or by one above it.
    for k in range(1, nodes):
        if room.depth[room.parent[k]] < 0:
            room.depth[k] = _NONE
        elif room.gain[k] > 0.0 and room.gain[k] >= room.below[k]:
            for i in range(room.begin[k], room.end[k]):
                groups.members[members] = room.order[i]
                groups.shared[room.order[i]] = room.depth[k]
                members += 1
            n += 1
            groups.start[n] = members
            room.depth[k] = _NONE
    groups.start[n + 1 :] = members
    return float(room.below[0] - cost.shared_step)


@njit_in_place
def _make_tree(pages: Int32, slot: Int32, context: Int32, count: int, page_size: int, room: Room) -> int:
    """Fill the nodes of at least two sequences, parents before children; return how many. Node 0 is the root.

    Each node has all pages that its sequences share, so some sequence leaves it on the way to its children:
    there are fewer of them than sequences. Those of one sequence only are forgotten as soon as they are seen.
    """
    rows = 0
    for i in range(count):
        room.limit[i] = (context[i] - 1) // page_size
        if room.limit[i] > 0:
            room.order[rows] = i
            rows += 1
    room.begin[0], room.end[0], room.depth[0], room.parent[0] = 0, rows, 0, _NONE
    nodes, k, visits = 1, 0, 0
    while k < nodes:
        if k > 0:
            room.depth[k] = _common(pages, slot, room, k)
        visits += room.end[k] - room.begin[k]
        if visits > MOST_VISITS * rows:
            k += 1
            continue
        first = nodes
        nodes = _add_children(pages, slot, room, k, nodes)
        _sort_rows(pages, slot, room, k, first, nodes)
        # Children of one sequence go; the places of the others are known by now.
        kept = first
        for child in range(first, nodes):
            if room.end[child] - room.begin[child] > 1:
                room.begin[kept], room.end[kept] = room.begin[child], room.end[child]
                room.page[kept], room.parent[kept] = room.page[child], k
                kept += 1
        nodes = kept
        k += 1
    return nodes


@njit_in_place
def _common(pages: Int32, slot: Int32, room: Room, k: int) -> int:
    """Return how many pages all sequences of a node share, at most as many as any one has whole."""
    leader = slot[room.order[room.begin[k]]]
    depth, known = room.limit[room.order[room.begin[k]]], room.depth[room.parent[k]] + 1
    for i in range(room.begin[k] + 1, room.end[k]):
        depth = min(depth, room.limit[room.order[i]])
        row = slot[room.order[i]]
        if pages[row, depth - 1] == pages[leader, depth - 1]:
            continue
        # The page at `low - 1` is the same, that at `depth - 1` is not.
        low = known
        while low + 1 < depth:
            middle = (low + depth) // 2
            if pages[row, middle - 1] == pages[leader, middle - 1]:
                low = middle
            else:
                depth = middle
        depth = low
    return int(depth)


@njit_in_place
def _add_children(pages: Int32, slot: Int32, room: Room, k: int, nodes: int) -> int:
    """Append a node for each page that follows those of node `k`; its `end` counts its sequences."""
    first, depth = nodes, room.depth[k]
    for i in range(room.begin[k], room.end[k]):
        row = room.order[i]
        if room.limit[row] <= depth:
            continue
        page = pages[slot[row], depth]
        child = room.mark[page]
        if not (first <= child < nodes and room.page[child] == page):
            child = nodes
            room.mark[page], room.page[child], room.end[child] = child, page, 0
            nodes += 1
        room.end[child] += 1
    return int(nodes)


@njit_in_place
def _sort_rows(pages: Int32, slot: Int32, room: Room, k: int, first: int, last: int) -> None:
    """Put the sequences of node `k` in the order of its children, those that are in none last."""
    place = room.begin[k]
    for child in range(first, last):
        size = room.end[child]
        room.begin[child] = room.end[child] = place
        place += size
    begin, end, depth = room.begin[k], room.end[k], room.depth[k]
    # Element by element: a copy of a slice would count references.
    for i in range(begin, end):
        room.spare[i] = room.order[i]
    for i in range(begin, end):
        row = room.spare[i]
        if room.limit[row] <= depth:
            room.order[place] = row
            place += 1
            continue
        child = room.mark[pages[slot[row], depth]]
        room.order[room.end[child]] = row
        room.end[child] += 1
