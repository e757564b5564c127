"""Which request goes to which server next: the blended order, with requests of one prefix kept at one server.

A server decides itself what it computes side by side, but takes requests in the order in which they come. So
the two sides of the plan are mixed here as our own scheduler mixes them: the memory-heavy side has its share
of the KV tokens in flight, and the compute-heavy side the rest.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.plan.scan import (
    LEFT,
    LEFT_MEMORY,
    NOBODY,
    RIGHT,
    RIGHT_MEMORY,
    right_share,
    take_next,
)
from engine.plan.tree import build_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.arrays import Int64
    from engine.job.format import Job

LEAST_SHARED: Final = 16
"""Tokens that a prefix must have for its requests to be kept together, and half of the prompt."""
PARTS: Final = 8
"""A server gets at least so many groups of requests, so that no common prefix leaves the others idle."""
AHEAD: Final = 2
"""A server has at most so many requests set aside for it, in multiples of those it has in flight."""
LEAST_AHEAD: Final = 16


def prefix_groups(job: Job, servers: int) -> Int64:
    """Return for each request the group that should stay at one server, int64 [N].

    Groups are neighbours in the prefix tree, so a group that is too large is cut along its subtrees.
    """
    n = len(job.request_ids)
    groups = np.zeros(n, np.int64)
    if servers == 1 or n == 0:
        return groups
    tree = build_tree(job.tokens, job.offsets)
    length = np.diff(job.offsets)[tree.sorted]
    most = max(1, n // (servers * PARTS))
    group, size = 0, 0
    for place, (leaf, common) in enumerate(zip(tree.sorted.tolist(), tree.common.tolist(), strict=True)):
        together = common >= max(LEAST_SHARED, int(length[place]) // 2)
        if place and not (together and size < most):
            group, size = group + 1, 0
        groups[leaf] = group
        size += 1
    return groups


class Feed:
    """Hands out the requests of a job, each until it is settled.

    Parameters
    ----------
    job
        With its plan; lengths are not learned on the way.
    groups
        int64 [N]: `prefix_groups`.
    servers
        How many there are.
    """

    def __init__(self, job: Job, groups: Int64, servers: int) -> None:
        self._scan = job.plan.scan()
        prompts = job.offsets[1:] - job.offsets[:-1]
        self._kv = (prompts + job.plan.estimate).tolist()
        self._heavy = [bool(heavy) for heavy in self._scan.heavy]
        self._out = [0.0, 0.0]
        self._groups = groups.tolist()
        self._owner: dict[int, int] = {}
        self._queues: list[deque[int]] = [deque() for _ in range(servers)]
        self._again: deque[int] = deque()
        self._left = len(job.request_ids)

    @property
    def unsettled(self) -> int:
        """Requests that have neither an answer nor a refusal."""
        return self._left

    def take(self, server: int, in_flight: int, usable: Callable[[int], bool]) -> int | None:
        """Return the next request for a server; None if there is none.

        Parameters
        ----------
        in_flight
            Requests that the server has.
        usable
            Tells whether another server can be left its requests.
        """
        if self._again:
            return self._again.popleft()
        own = self._queues[server]
        if own:
            return own.popleft()
        most = max(LEAST_AHEAD, AHEAD * in_flight)
        while (request := self._next()) is not None:
            owner = self._owner.setdefault(self._groups[request], server)
            if owner == server or not usable(owner) or len(self._queues[owner]) >= most:
                self._owner[self._groups[request]] = server
                return request
            self._queues[owner].append(request)
        longest = max(self._queues, key=len)
        return longest.pop() if longest else None

    def give_back(self, request: int) -> None:
        """Take back a request that has to be sent again; it goes before all others."""
        self._again.append(request)

    def settle(self, request: int) -> None:
        """Take note that a request has its answer or refusal."""
        self._left -= 1
        self._out[self._heavy[request]] -= self._kv[request]

    def _next(self) -> int | None:
        """Return the next request of the plan, from the side that has less than its share in flight."""
        scan = self._scan
        share = right_share(float(scan.waiting[LEFT_MEMORY]), float(scan.waiting[RIGHT_MEMORY]))
        light, heavy = self._out
        total = light + heavy
        side = RIGHT if heavy < share * total or (total == 0.0 and share > 0.0) else LEFT
        for one in (side, RIGHT if side == LEFT else LEFT):
            request = take_next(scan, one)
            if request != NOBODY:
                self._out[self._heavy[request]] += self._kv[request]
                return request
        return None
