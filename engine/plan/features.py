"""What an answer's length may depend on: its workload, what its prompt begins with, and how long that is.

Requests form a tree of nodes: all, one node per workload, below it one per common beginning of 16, 64, 256
and 1,024 tokens, and last one per octave of the prompt's length. Beginnings are known by a hash, so that
those of earlier nights can be told without their prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.arrays import frozen
from engine.jit import entry, njit

if TYPE_CHECKING:
    from engine.arrays import Int32, Int64, UInt64

LEVELS: Final = (16, 64, 256, 1024)
"""Tokens of the beginnings that are told apart."""
LEAST: Final = 8
"""Fewer requests than these are no node of their own."""


@njit
def _mix(key: np.uint64) -> np.uint64:
    """Return the hash of a number (the finaliser of splitmix64)."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def prefix_keys(tokens: Int32, start: Int64, levels: Int64) -> UInt64:
    """Return hashes of the beginnings of prompts, uint64 [N, levels]; 0 for a shorter prompt.

    Parameters
    ----------
    tokens, start
        The prompts, flat: ``tokens[start[i]:start[i + 1]]``.
    levels
        int64, rising: how many tokens each hash is of.
    """
    return _prefix_keys(frozen(tokens), frozen(start), levels)


@entry(frozen=("tokens", "start"))
def _prefix_keys(tokens: Int32, start: Int64, levels: Int64) -> UInt64:
    n = start.shape[0] - 1
    out = np.zeros((n, levels.shape[0]), np.uint64)
    for i in range(n):
        key, place = np.uint64(0x9E3779B97F4A7C15), start[i]
        for k in range(levels.shape[0]):
            end = start[i] + levels[k]
            if end > start[i + 1]:
                break
            while place < end:
                key = (key ^ np.uint64(tokens[place])) * np.uint64(0x100000001B3)
                key ^= key >> np.uint64(32)
                place += 1
            out[i, k] = _mix(key) | np.uint64(1)
    return out


@dataclass(frozen=True)
class Features:
    """Of N requests.

    Attributes
    ----------
    group
        int64 [N]: the workload, by a number that is the same every night.
    keys
        uint64 [N, 4]: `prefix_keys` for `LEVELS`.
    prompt
        int64 [N], tokens: prompt lengths.
    """

    group: Int64
    keys: UInt64
    prompt: Int64

    @classmethod
    def of(cls, tokens: Int32, start: Int64, group: Int64) -> Features:
        """Return the features of prompts."""
        keys = prefix_keys(tokens, start, np.array(LEVELS, np.int64))
        return cls(np.ascontiguousarray(group, np.int64), keys, np.diff(start))

    def levels(self) -> list[UInt64]:
        """Return what is told apart at each level below the root, uint64 [N] each; 0: nothing."""
        octave = np.frexp(self.prompt.astype(np.float64))[1].astype(np.uint64) + np.uint64(1)
        return [
            _mix_all(self.group.astype(np.uint64)) | np.uint64(1),
            *(self.keys[:, k] for k in range(self.keys.shape[1])),
            octave,
        ]


@entry()
def _mix_all(keys: UInt64) -> UInt64:
    out = np.empty_like(keys)
    for i in range(keys.shape[0]):
        out[i] = _mix(keys[i] + np.uint64(0x9E3779B97F4A7C15))
    return out


@dataclass(frozen=True)
class NodeTree:
    """The nodes of a set of requests; parents have lower numbers, node 0 is the root.

    Attributes
    ----------
    parent
        int32 [nodes]; -1 for the root.
    workload
        int32 [nodes]: the node at or above that stands for a workload; 0 for the root.
    level
        int32 [nodes]: 0 for the root, 1 for workloads, and so on.
    node
        int32 [N]: the lowest node of each request.
    tables
        Of each level: sorted keys, uint64, and their nodes.
    """

    parent: Int32
    workload: Int32
    level: Int32
    node: Int32
    tables: list[tuple[UInt64, Int32]]

    def find(self, features: Features) -> Int32:
        """Return the lowest node of other requests, int32 [n]."""
        node = np.zeros(features.group.shape[0], np.int32)
        for level, (known, numbers) in zip(features.levels(), self.tables, strict=True):
            if known.shape[0]:
                keys = _child_keys(node, level)
                at = np.minimum(np.searchsorted(known, keys), known.shape[0] - 1)
                node = np.where((known[at] == keys) & (level > 0), numbers[at], node)
        return node


def _child_keys(node: Int32, level: UInt64) -> UInt64:
    return _mix_all(level ^ _mix_all(node.astype(np.uint64)))


def make_nodes(features: Features) -> NodeTree:
    """Return the nodes of these requests: those of at least `LEAST` of them, and all workloads."""
    n = features.group.shape[0]
    node, parents, tables = np.zeros(n, np.int32), [np.full(1, -1, np.int32)], []
    count, sizes_of = 1, [1]
    for depth, level in enumerate(features.levels()):
        keys = _child_keys(node, level)
        known, first, inverse, sizes = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        kept = (level[first] > 0) & (sizes >= (1 if depth == 0 else LEAST))
        numbers = np.where(kept, count + np.cumsum(kept) - 1, -1).astype(np.int32)
        parents.append(node[first[kept]])
        tables.append((known[kept], numbers[kept]))
        node = np.where(kept[inverse], numbers[inverse], node)
        count += int(kept.sum())
        sizes_of.append(int(kept.sum()))
    parent = np.concatenate(parents)
    workload = np.zeros(count, np.int32)
    for k in range(1, count):
        workload[k] = k if parent[k] == 0 else workload[parent[k]]
    level_of = np.repeat(np.arange(len(sizes_of), dtype=np.int32), sizes_of)
    return NodeTree(parent, workload, level_of, node, tables)
