"""How many requests a server gets at a time, found by what it does with them.

At first the number doubles, as long as the server does more in a second with it. One that says it has no room
(429, 503) sets the limit: additive increase, multiplicative decrease (AIMD) from then on. One that takes
everything is asked for a little more or less now and then, and the limit goes where more comes out; so a
server that only queues is not given the whole night at once.

Time is whatever the caller's clock says.
"""

from __future__ import annotations

import math
from typing import Final

FIRST: Final = 16
LEAST_ROUND: Final = 48
"""Answers, even if the limit is lower: of a few the length decides how fast they seem."""
DECREASE: Final = 0.9
"""Of what was in flight when the server refused. Little, since a refusal costs a server nothing."""
INCREASE: Final = 0.02
"""Per round, and at least one: a round is as many answers as the limit."""
SHORT: Final = 0.2
"""Part of a round in which fewer may be in flight than allowed: of a longer time its rate says nothing."""
DOUBLING_GAINS: Final = 1.07
"""A doubling that gives less than this has found the server's limit."""
DOUBLING_LOSES: Final = 0.95
"""One that gives less than this was too much, and is taken back."""
STEP: Final = 1.25
STEP_GAINS: Final = 1.03
REST: Final = 4
"""Rounds between two looks at a little more or less; doubled with each that finds nothing."""
LONGEST_REST: Final = 64


class Limit:
    """The limit of one server.

    Parameters
    ----------
    most
        Never more than this.
    first
        Where it begins.
    """

    def __init__(self, most: int, first: int = FIRST) -> None:
        self._most = float(max(1, most))
        self._limit = min(float(first), self._most)
        self._doubling = True
        self._refusing = False
        # A round goes by first, as after a small change: of requests that were all sent at once the first to
        # end say nothing of the others.
        self._settling = True
        self._left = self.value
        self._since: float | None = None
        self._work = 0.0
        # Since when there was an answer, or the round, and seconds of it with fewer in flight than allowed.
        self._last = self._short = 0.0
        self._rate: float | None = None
        self._before = self._limit
        self._direction = 1
        self._rest, self._resting = REST, REST
        self._probing = False
        self._decreased = float("-inf")

    @property
    def value(self) -> int:
        """Requests that may be in flight, at least 1."""
        return max(1, int(self._limit))

    def answered(self, now: float, work: float, in_flight: int) -> None:
        """Take in an answer.

        Parameters
        ----------
        work
            Of it, in tokens.
        in_flight
            Requests that were in flight until it came.
        """
        if self._since is None:
            self._since = self._last = now
        # By time: of answers that end together the later ones find places that nobody could fill so fast.
        if in_flight < self.value:
            self._short += now - self._last
        self._last = now
        self._work += work
        self._left -= 1
        if self._left <= 0:
            self._end_round(now)

    def refused(self, now: float, sent: float, in_flight: int) -> None:
        """Take in that the server had no room for a request that was sent at `sent`.

        Of all that were sent before the limit was lowered only the first counts.
        """
        if sent <= self._decreased:
            return
        # So many it holds at this moment, whatever the limit was. Of a few there is nothing to take off.
        held = max(1.0, min(self._limit, float(in_flight)) - 1.0)
        self._limit = float(math.ceil(DECREASE * held))
        self._refusing, self._doubling, self._probing = True, False, False
        self._decreased = now
        self._begin_round(now, settle=False)

    def lost(self, now: float) -> None:
        """Take in that the server went away: what comes back may bear less."""
        self._limit = max(1.0, min(self._limit, FIRST))
        self._doubling, self._probing, self._rate = True, False, None
        self._decreased = now
        self._begin_round(now, settle=True)

    def _begin_round(self, now: float, *, settle: bool) -> None:
        self._settling = settle
        measured = not settle and not self._refusing
        # Whole rounds: where all requests are alike they end in waves.
        self._left = self.value * (-(-LEAST_ROUND // self.value) if measured else 1)
        self._work, self._since, self._last, self._short = 0.0, now, now, 0.0

    def _end_round(self, now: float) -> None:
        if self._settling:
            self._begin_round(now, settle=False)
            return
        seconds = now - (self._since if self._since is not None else now)
        # A round in which less was in flight than allowed says nothing of the limit.
        full = self._short <= SHORT * seconds
        rate = self._work / seconds if seconds > 0 and full else None
        if rate is None:
            self._begin_round(now, settle=False)
        elif self._refusing:
            more = max(1.0, INCREASE * self._limit)
            self._move(self._limit + more, now, settle=False)
        elif self._doubling:
            self._double(rate, now)
        else:
            self._climb(rate, now)

    def _double(self, rate: float, now: float) -> None:
        before, self._rate = self._rate, rate
        if before is not None and rate < before * DOUBLING_GAINS:
            self._doubling = False
            if rate < before * DOUBLING_LOSES:
                self._rate = before
                self._move(self._before, now)
                return
        if not self._doubling or self._limit >= self._most:
            self._doubling = False
            self._begin_round(now, settle=False)
            return
        self._before = self._limit
        self._move(self._limit * 2.0, now)

    def _climb(self, rate: float, now: float) -> None:
        if self._probing:
            self._probing = False
            if rate > (self._rate or 0.0) * STEP_GAINS:
                self._rate, self._rest = rate, REST
                if self._direction > 0:
                    # There is more to be had, so it is looked for in large steps again.
                    self._doubling, self._before = True, self._limit
                    self._begin_round(now, settle=False)
                else:
                    self._probe(now)
                return
            self._direction = -self._direction
            self._rest = min(2 * self._rest, LONGEST_REST)
            self._resting = self._rest
            self._move(self._before, now)
            return
        # The work changes over a night, so the rate to beat is a late one.
        self._rate = rate
        self._resting -= 1
        if self._resting > 0:
            self._begin_round(now, settle=False)
        else:
            self._probe(now)

    def _probe(self, now: float) -> None:
        self._before = self._limit
        wanted = self._limit * STEP**self._direction
        if int(min(wanted, self._most)) == self.value:
            self._direction, self._resting = -self._direction, self._rest
            self._begin_round(now, settle=False)
            return
        self._probing = True
        self._move(wanted, now)

    def _move(self, limit: float, now: float, *, settle: bool = True) -> None:
        self._limit = min(self._most, max(1.0, limit))
        self._begin_round(now, settle=settle)
