"""Whether promises will be kept, told by progress: in time to do something about it.

A plan comes with a forecast (`tasks.plan.promises.Forecast`): after how many modelled seconds how many
answers are there, and when those of each promised tenant are. How far the run is on that curve, and how long
it took to get there, says how much slower than modelled the device and the answers are; the rest is expected
to take as much longer. An engine that answers nothing gets no further while time goes on, so that tells, too.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tasks.infer.progress import AtRisk, at_risk
from tasks.night.promises import due_times
from tasks.plan.promises import owners_of
from tasks.runlog.records import PromiseAtRisk

if TYPE_CHECKING:
    from tasks.night.night import Night
    from tasks.plan.promises import Forecast
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Between two looks; ten times as long where a look takes long."""
SLACK: Final = 0.05
"""Part of the time still expected that may be an error of the forecast: an alarm leaves it out."""
FIRST: Final = 8
"""Sequences of which the first few are taken together: one alone says little of the pace."""


@dataclass
class _Promised:
    """A promise with a time, of a tenant that has requests in the run."""

    tenant: str
    due: float
    requests: int
    open_rows: list[int]
    expected: float | None = None
    risk: AtRisk | None = None


@dataclass(frozen=True)
class Expectation:
    """When a tenant's requests are expected to be answered, and by when they were promised; Unix times."""

    tenant: str
    due: float
    expected: float | None
    left: int


class PromiseWatch:
    """Looks at the progress of an attempt; says once of each tenant that its promise is at risk.

    Parameters
    ----------
    night, work
        Of the attempt; promises are those of its settings.
    """

    def __init__(self, night: Night, work: NightWork) -> None:
        self._work = work
        self._run_date = night.run_date.isoformat()
        self._attempt = night.attempt.id
        promises = night.settings.promises
        owner = owners_of(work.rows, promises).tolist() if promises else []
        times = due_times(promises, night.log.state) if promises else []
        self._promised = [
            _Promised(promise.tenant, due.timestamp(), len(mine), mine)
            for i, (promise, due) in enumerate(zip(promises, times, strict=True))
            if due is not None and (mine := [row for row, one in enumerate(owner) if one == i])
        ]
        for one in self._promised:
            known = night.log.state.at_risk.get(one.tenant)
            if known is not None:
                one.risk = at_risk(self._run_date, known)
        self._forecast: Forecast | None = None
        self._ended = 0
        # Seconds that the present engine has worked on its plan.
        self._worked = 0.0
        self._last: float | None = None
        self._next_look = 0.0

    @property
    def at_risk(self) -> tuple[AtRisk, ...]:
        """The promises that were seen to be at risk, in this attempt or before."""
        return tuple(one.risk for one in self._promised if one.risk is not None)

    @property
    def expectations(self) -> list[Expectation]:
        """What is expected of each promise with a time."""
        return [Expectation(one.tenant, one.due, one.expected, len(one.open_rows)) for one in self._promised]

    def begin(self, forecast: Forecast | None) -> None:
        """Take note of the plan of a new engine; None: of what it does nothing is expected."""
        self._forecast, self._ended, self._worked, self._last = forecast, 0, 0.0, None

    def take_ended(self, sequences: int) -> None:
        """Count sequences that have ended."""
        self._ended += sequences

    def look(self, *, waits: bool = False) -> list[PromiseAtRisk]:
        """Return what is to be recorded: promises that are at risk and were not before.

        Parameters
        ----------
        waits
            Whether the engine may not work now.
        """
        if not self._promised or self._forecast is None:
            return []
        now = clock()
        if self._last is not None and not waits:
            self._worked += max(0.0, now - self._last)
        self._last = now
        if now < self._next_look:
            return []
        begin = time.monotonic()
        found = [risk for one in self._promised if (risk := self._look_at(one, now)) is not None]
        self._next_look = now + max(LOOK_S, 10.0 * (time.monotonic() - begin))
        return found

    def _look_at(self, one: _Promised, now: float) -> PromiseAtRisk | None:
        rows, answered = self._work.rows, self._work.answered
        one.open_rows = [row for row in one.open_rows if rows[row]["request_id"] not in answered]
        # The next answers may be about to come: at the least, the run is not further than those.
        least = self._seconds_left(one.tenant, max(self._ended + 1, FIRST)) if one.open_rows else None
        if least is None:
            return None
        expected = now + least
        if self._ended >= FIRST:
            expected = one.expected = now + (self._seconds_left(one.tenant, self._ended) or least)
        if one.risk is not None or now + (1.0 - SLACK) * least <= one.due:
            return None
        found = PromiseAtRisk(
            one.tenant,
            _text(one.due),
            _text(expected),
            _text(now),
            one.requests - len(one.open_rows),
            one.requests,
            self._attempt,
        )
        one.risk = at_risk(self._run_date, found)
        log.warning("%s", one.risk.text())
        return found

    def _seconds_left(self, tenant: str, reached: int) -> float | None:
        """Return the seconds until a tenant's requests are answered; None if nobody knows.

        `reached` is the number of sequences whose end the run is taken to have come to by now.
        """
        forecast = self._forecast
        if forecast is None or tenant not in forecast.tenants or self._worked <= 0.0:
            return None
        end, here = forecast.tenants[tenant], forecast.seconds_at(self._ended)
        passed = forecast.seconds_at(reached)
        return max(0.0, end - here) * self._worked / passed if passed > 0.0 else None


def clock() -> float:
    """Return the present as Unix time."""
    return time.time()


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
