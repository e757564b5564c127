"""Which request an engine dies of: told by what it was computing each time that it died.

The first time an engine dies nobody is to blame: a new one goes on with all that remains. If that one dies,
too, what it was computing is computed by itself, fewer at a time, until an engine dies of one request alone.
That one is set aside, once engines are known to answer others.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.job.running import read_running
from tasks.infer.progress import EngineFailedError, StoppedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.plan.work import NightWork

ONE_BY_ONE: Final = 16
"""So many suspects, or fewer, are computed one at a time."""
MOST_UNPROVEN: Final = 2
"""An engine that has died of so many requests, each alone, and has answered none meanwhile, is broken."""


@dataclass(frozen=True, slots=True)
class Share:
    """Requests that the next engine computes by themselves, at most `max_sequences` at a time.

    `max_sequences` is None where the engine does not tell what it computes: then fewer at a time say nothing.
    """

    keys: tuple[str, ...]
    max_sequences: int | None


@dataclass(frozen=True, slots=True)
class Culprit:
    """A request that an engine has died of alone: its key, and how it died."""

    key: str
    why: str


def computed_at_the_end(work: NightWork, folder: Path) -> list[str] | None:
    """Return the keys of what the engine of a job folder computed when it ended; None if it did not tell."""
    running = read_running(folder)
    if running is None:
        return None
    with (folder / "requests.jsonl").open() as file:
        ids = [json.loads(line)["request_id"] for line in file]
    wanted = {ids[i] for i in running}
    # Several sequences of a request are one suspect.
    return [key for key, rows in work.members.items() if work.rows[rows[0]]["request_id"] in wanted]


class Suspects:
    """Decides what the next engine computes after one has died, and when that is enough.

    Parameters
    ----------
    restarts
        How often an engine is started again without that leading to a request.
    has_worked
        Whether the run has answers that an engine has computed.
    """

    def __init__(self, restarts: int, *, has_worked: bool = False) -> None:
        self._restarts = restarts
        self._deaths = 0
        # Deaths that no request explains so far, and how often one was looked for in vain.
        self._unexplained = self._in_vain = 0
        # At the last death.
        self._computing: tuple[str, ...] = ()
        self._hidden = False
        # Empty, unless a request is being looked for; the present engine then computes a share.
        self._suspects: tuple[str, ...] = ()
        self._share: Share | None = None
        # Whether answers have come since the present deaths began, and whether there were any before.
        self._works, self._has_worked = False, has_worked
        self._named: list[Culprit] = []
        self._proven: list[Culprit] = []
        self._set_aside: set[str] = set()

    @property
    def watched(self) -> frozenset[str]:
        """What an engine may have died of: requests that stay together until that is known."""
        return frozenset(self._suspects) | frozenset(self._computing)

    def left(self, open_keys: Sequence[str]) -> list[str]:
        """Return those of the requests without an answer that are still to be computed."""
        return [key for key in open_keys if key not in self._set_aside]

    def share(self, left: Sequence[str]) -> Share | None:
        """Return what the next engine is to compute of the requests that are left; None: all of them."""
        still = set(left)
        self._suspects = tuple(key for key in self._suspects if key in still)
        count = len(self._suspects)
        if not count:
            self._share = None
        elif self._hidden:
            # If these are answered it is among the others.
            self._share = Share(self._suspects[: (count + 1) // 2], None)
        else:
            self._share = Share(self._suspects, 1 if count <= ONE_BY_ONE else math.isqrt(count - 1) + 1)
        return self._share

    def answered(self) -> None:
        """Take note that the present engine has answered something."""
        self._works = self._has_worked = True
        self._proven += self._named
        self._named = []

    def ended(self) -> None:
        """Take note that the present engine has answered all it was to compute."""
        if self._share is None:
            return
        done = set(self._share.keys)
        self._suspects = tuple(key for key in self._suspects if key not in done) if self._hidden else ()
        if not self._suspects:
            # All of them are answered: the engine died of none.
            self._in_vain += 1
            self._computing = ()

    def died(
        self,
        why: str,
        computing: Sequence[str] | None,
        unanswered: Sequence[str],
        *,
        may_pass: bool = False,
    ) -> None:
        """Take note that the present engine has died.

        Parameters
        ----------
        why
            For people.
        computing
            The requests that it was computing, without those that are answered; None if it does not tell.
        unanswered
            Those of its job that are not answered.
        may_pass
            Whether what it died of may be over another time although it has never answered anything.

        Raises
        ------
        StoppedError
            If engines have died too often, and it may be otherwise another time.
        EngineFailedError
            If engines have died too often, and none of them has answered anything.
        """
        self._deaths += 1
        self._hidden = computing is None
        now = tuple(unanswered if computing is None else computing)
        if self._share is None:
            # Alone, and not for the first time.
            culprit = now[0] if len(now) == 1 and now[0] in self._computing else None
            fewer: tuple[str, ...] = ()
        else:
            known = set(self._suspects)
            fewer = tuple(key for key in now if key in known)
            culprit = fewer[0] if len(fewer) == 1 else None
        if culprit is not None:
            self._name(Culprit(culprit, why))
        elif 0 < len(fewer) < len(self._suspects):
            self._suspects = fewer
        else:
            self._count(now, why, may_pass=may_pass)

    def _count(self, now: tuple[str, ...], why: str, *, may_pass: bool) -> None:
        """Take note of a death that nothing explains yet; look for a request if it is not the first."""
        self._unexplained += 1
        self._works = False
        look = len(now) > 0 and self._unexplained > 1 and self._restarts > 0
        if self._unexplained > self._restarts and not (look and self._in_vain == 0):
            if self._deaths > 1 and not self._has_worked and not may_pass:
                raise EngineFailedError(self._broken(why))
            raise StoppedError(f"the engine died {self._deaths} times, last: {why}")
        self._computing, self._suspects = now, now if look else ()

    def culprits(self, *, nothing_left: bool) -> list[Culprit]:
        """Return whom engines have died of for certain, since the last call.

        Parameters
        ----------
        nothing_left
            Whether no other request can show any more that engines work.

        Raises
        ------
        EngineFailedError
            If nothing is left, and no engine has answered anything.
        """
        if nothing_left and self._named:
            if not self._has_worked:
                raise EngineFailedError(self._broken(self._named[-1].why))
            self.answered()
        found, self._proven = self._proven, []
        if found:
            self._unexplained = self._in_vain = 0
        return found

    def _name(self, culprit: Culprit) -> None:
        (self._proven if self._works else self._named).append(culprit)
        self._set_aside.add(culprit.key)
        self._suspects, self._computing = (), ()
        if len(self._named) >= MOST_UNPROVEN:
            raise EngineFailedError(self._broken(culprit.why))

    def _broken(self, why: str) -> str:
        return (
            f"the engine died {self._deaths} times without an answer, last: {why}. Starting it again does "
            "not help: look into what ails this machine, its driver or its memory (nightblend doctor), or "
            "run on another --device"
        )
