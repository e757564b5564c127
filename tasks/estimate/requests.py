"""Logged requests as arrays: prompts as token ids, lengths of answers, workloads; and samples of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from engine.plan.tree import build_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.plan.tree import PrefixTree

    Bool = npt.NDArray[np.bool_]
    Int32 = npt.NDArray[np.int32]
    Int64 = npt.NDArray[np.int64]

SHARED: Final = 0.25
"""Requests that share at least this part of their prompt with their neighbour are sampled together."""
TOGETHER: Final = 32
"""At most so many."""
BINS: Final = 8
LEAST_IN_BIN: Final = 25


@dataclass(frozen=True)
class Requests:
    """N requests in order of arrival.

    Attributes
    ----------
    name
        What a person calls them.
    tokens, start
        int32 [tokens], int64 [N + 1]: the prompts, flat: ``tokens[start[i]:start[i + 1]]``.
    output
        int32 [N], tokens: lengths of the answers, at least 1.
    workload, workloads
        int64 [N]: index into the names of the workloads.
    repeats
        int64 [N]: the first request that has the same answer; i itself for most.
    about
        What was read, left out and assumed, for people.
    """

    name: str
    tokens: Int32
    start: Int64
    output: Int32
    workload: Int64
    workloads: tuple[str, ...]
    repeats: Int64
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.output.shape[0])

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self.start[-1])

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return int(self.output.sum(dtype=np.int64))

    @property
    def total_tokens(self) -> int:
        """Prompt and answer tokens."""
        return self.prompt_tokens + self.output_tokens

    @cached_property
    def tree(self) -> PrefixTree:
        """The prefix tree of the prompts."""
        return build_tree(self.tokens, self.start)

    @cached_property
    def kinds(self) -> Int64:
        """int64 [N]: requests of the same workload and about the same prompt length, `BINS` lengths of each.

        A length model tells about so much of an answer before it is made.
        """
        prompt = np.diff(self.start)
        found = np.empty(len(self), np.int64)
        for i in range(len(self.workloads)):
            mine = np.flatnonzero(self.workload == i)
            bins = min(BINS, max(1, len(mine) // LEAST_IN_BIN))
            rank = np.argsort(np.argsort(prompt[mine], kind="stable"), kind="stable")
            found[mine] = i * BINS + rank * bins // max(len(mine), 1)
        return found

    def take(self, chosen: Int64) -> Requests:
        """Return the requests with these indices, in this order."""
        length = np.diff(self.start)[chosen]
        start = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
        parts = [self.tokens[a:b] for a, b in zip(self.start[chosen], self.start[chosen + 1], strict=True)]
        known = {int(request): at for at, request in enumerate(chosen)}
        repeats = [known.get(int(self.repeats[request]), at) for at, request in enumerate(chosen)]
        return replace(
            self,
            tokens=np.concatenate([self.tokens[:0], *parts]),
            start=start,
            output=self.output[chosen],
            workload=self.workload[chosen],
            repeats=np.array(repeats, np.int64),
        )

    @cached_property
    def distinct(self) -> Requests:
        """The requests that have to be computed: of equal ones, the first."""
        first = np.flatnonzero(self.repeats == np.arange(len(self)))
        return self if len(first) == len(self) else self.take(first)

    def sample(self, count: int, seed: int = 0) -> Requests:
        """Return about `count` requests, stratified by workload and work; all of them if there are no more.

        Requests that share much of their prompt stay together, else a sample would share less than the whole.
        """
        return self if count >= len(self) else self.take(self.choose(count, seed))

    def choose(self, count: int, seed: int = 0) -> Int64:
        """Return the indices of `sample`, int64 [about `count`], rising."""
        if count >= len(self):
            return np.arange(len(self))
        cluster = _clusters(self.tree, self.workload)
        clusters = int(cluster.max()) + 1
        size = np.bincount(cluster, minlength=clusters)
        work = np.bincount(cluster, np.diff(self.start) + self.output.astype(np.float64), clusters)
        kind = np.zeros(clusters, np.int64)
        kind[cluster] = self.workload
        # Every so-many-th cluster by workload and work per request, from a random place on.
        order = np.lexsort((work / size, kind))
        step = len(self) / count
        at = np.arange(np.random.default_rng(seed).uniform(0, min(step, clusters)), clusters, step)
        return np.flatnonzero(np.isin(cluster, order[at.astype(np.int64)]))


def _clusters(tree: PrefixTree, workload: Int64) -> Int64:
    """Return the number of the cluster of each request, int64 [N]: neighbours that share much."""
    n = tree.sorted.shape[0]
    prompt = np.maximum(tree.depth[:n], 1)
    kind = workload[tree.sorted]
    new = np.ones(n, np.bool_)
    new[1:] = (tree.common[1:] < SHARED * prompt[1:]) | (kind[1:] != kind[:-1])
    run = np.cumsum(new) - 1
    begin = np.flatnonzero(new)
    within = np.arange(n) - begin[run]
    new |= within % TOGETHER == 0
    found = np.empty(n, np.int64)
    found[tree.sorted] = np.cumsum(new) - 1
    return found
