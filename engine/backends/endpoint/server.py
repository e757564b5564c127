"""One server of a night: how many requests it may have now, and whether it is there."""

from __future__ import annotations

from typing import Final

from engine.backends.endpoint.limit import Limit

LOST: Final = 3
"""Connections lost one after the other, without an answer in between, after which a server counts as away."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 30.0
NEXT: Final = 0.125
"""Of what a server computes, so much more may wait in its queue, at least `LEAST_NEXT`."""
LEAST_NEXT: Final = 2


class Server:
    """A server.

    Attributes
    ----------
    url
        Its address.
    in_flight
        Requests that it has.
    limit
        How many it may have while it is there.
    """

    def __init__(self, url: str, most: int) -> None:
        self.url = url
        self.in_flight = 0
        self.limit = Limit(most)
        self._losses = 0
        self._refusals = 0
        self._away = False
        self._away_since = self._paused_until = float("-inf")
        self._trials = 0
        # Requests that it may have by its queue; None: no more is known than the limit.
        self._bears: int | None = None
        # Requests that it had when last it had got all there was for it: of those that end together, each
        # leaves it fewer for a moment.
        self._filled = 0

    @property
    def away(self) -> bool:
        """Whether it is not there: one request at a time finds out when it comes back."""
        return self._away

    def room(self, now: float) -> int:
        """Return how many requests more it may get."""
        if now < self._paused_until:
            return 0
        most = self.limit.value if self._bears is None else min(self.limit.value, self._bears)
        return (1 if self._away else most) - self.in_flight

    def queued(self, waiting: int | None) -> None:
        """Take in how many requests wait in its queue, of whomever they are; None: it does not tell.

        Until the next look it gets little more than it was seen to bear, whatever its limit.
        """
        if waiting is None or not self.in_flight:
            self._bears = None
            return
        computed = max(0, self.in_flight - waiting)
        following = max(LEAST_NEXT, int(NEXT * computed))
        if waiting > following:
            self._bears = max(1, computed + following)
        else:
            # Where nobody waits it may compute more than it has.
            had = max(self.in_flight, self._filled)
            self._bears = had + (following if waiting else had)

    def filled(self) -> None:
        """Take in that for now it has got all that there was for it."""
        self._filled = self.in_flight

    def answered(self, now: float, work: float) -> None:
        """Take in that it has answered, or has looked at a request and refused it for what it is."""
        self.limit.answered(now, work, self.in_flight)
        self._losses = self._refusals = 0
        self._away = False

    def refused(self, now: float, sent: float, wait_s: float | None) -> None:
        """Take in that it has no room; `wait_s` is what it says how long."""
        self._losses, self._away = 0, False
        self.limit.refused(now, sent, self.in_flight)
        self._refusals += 1
        # Many in a row: even the lowest limit is too much for it now.
        pause = _pause(self._refusals // 2) if self.limit.value == 1 else FIRST_PAUSE_S
        self._pause(now, pause if wait_s is None else wait_s)

    def slow(self, now: float, sent: float) -> None:
        """Take in that a request was not answered in time."""
        self.limit.refused(now, sent, self.in_flight)

    def lost(self, now: float, sent: float, *, unreachable: bool) -> None:
        """Take in that a connection was lost, or that none could be made, for a request sent at `sent`."""
        if self._away and sent <= self._away_since:
            # It went down with the others.
            return
        self._losses += 1
        if self._away:
            self._trials += 1
        elif unreachable or self._losses >= LOST:
            self._away, self._trials = True, 0
            self.limit.lost(now)
        if self._away:
            self._away_since = now
            self._pause(now, _pause(1 + self._trials))

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + seconds)


def _pause(times: int) -> float:
    return float(min(FIRST_PAUSE_S * 2.0 ** min(times, 16), LONGEST_PAUSE_S))
