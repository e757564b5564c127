"""One of the engines that share the requests of a run: its own requests, its process, what it dies of."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from engine.choices import NATIVE
from tasks.base.disk import is_full
from tasks.infer.progress import StoppedError
from tasks.infer.session import EngineSession
from tasks.infer.suspects import Suspects, computed_at_the_end
from tasks.plan.plan import write_plan

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tasks.infer.backends.contract import Place, RunningEngine
    from tasks.infer.session import Intake
    from tasks.infer.suspects import Culprit, Share
    from tasks.night.night import Night

log = logging.getLogger(__name__)

LEAST_LEFT: Final = 16
"""Fewer requests without an answer are not worth an engine that has to load the model first; and so many
answers are waited for before an engine that had nothing to give is asked again."""
LEAST_PART: Final = 0.02
"""Nor are fewer than this part of what the engine was started on. At most half of what is left moves, which
saves half of the time that it takes. Starting an engine takes a minute or so, a share an hour or two: below
a fiftieth the start takes longer than it saves."""


class Replica:
    """Answers its part of the requests with one engine process after the other.

    Parameters
    ----------
    number
        From 0.
    place
        Where its engines run.
    has_worked
        Whether the run has answers that an engine has computed.

    Attributes
    ----------
    session
        What is known of its engines.
    engine
        The present process; None if there is none.
    whole
        Folder of the last job that had all of its requests; None before.
    place
        See above.
    waits
        Whether it has to wait for its place before it can start an engine.
    places_lost
        How often its place was gone while an engine computed there.
    asked_to_stop
        Whether it is to start no engine any more.
    """

    def __init__(self, night: Night, intake: Intake, number: int, place: Place, *, has_worked: bool) -> None:
        self._night = replace(night, settings=replace(night.settings, device=place.device))
        self.place = place
        self.waits = True
        self.places_lost = 0
        self._rests = False
        # One after the other, without an answer in between.
        self._losses = 0
        self._intake = intake
        self.number = number
        self.session = EngineSession(intake, number)
        self.suspects = Suspects(night.settings.engine_restarts, has_worked=has_worked)
        self.engine: RunningEngine | None = None
        self.whole: Path | None = None
        self.asked_to_stop = False
        self._keys: set[str] = set()
        self._share: Share | None = None
        self._asked: tuple[str, ...] = ()
        self._folder: Path | None = None
        self._answered_before = 0
        # Whether a question for requests is open, and before how many answers none is asked.
        self._question = False
        self._silent_until = 0
        self._held = ExitStack()

    @property
    def epoch(self) -> int:
        """Number of the present or last engine; what one of an earlier number sends does not count."""
        return self.session.starts

    def add(self, keys: Iterable[str]) -> None:
        """Add requests to those that the next engine computes."""
        self._keys.update(keys)

    def give_back(self, keys: Iterable[str]) -> None:
        """Take requests away that no engine computes."""
        self._keys.difference_update(keys)

    def left(self) -> list[str]:
        """Return which of its requests are still to be computed, in input order."""
        return self.suspects.left([key for key in self._intake.work.open_keys() if key in self._keys])

    def count_left(self, open_keys: Iterable[str]) -> int:
        """Return how many of these requests, which have no answer, it is still to compute."""
        return len(self.suspects.left([key for key in open_keys if key in self._keys]))

    def idle(self) -> list[str]:
        """Return those of its requests that no engine computes, and that no engine may have died of."""
        computing = set(self._asked) if self.engine is not None else set()
        return [key for key in self.left() if key not in computing and key not in self.suspects.watched]

    @property
    def is_asked(self) -> bool:
        """Whether its engine has been asked to give requests back, and has not said which yet."""
        return self._question

    def could_give(self) -> int:
        """Return how many requests are left, if that is worth asking its engine for some; else 0."""
        session = self.session
        may = self.engine is not None and session.gives and not self._question and not self.searches
        if not may or session.answered < self._silent_until:
            return 0
        left = set(self._asked).intersection(self.left())
        # What an engine may have died of stays in the replica until it is answered.
        if len(left) >= max(LEAST_LEFT, LEAST_PART * len(self._asked)) and not left & self.suspects.watched:
            return len(left)
        self._silent_until = session.answered + LEAST_LEFT
        return 0

    def ask_to_give(self) -> None:
        """Ask the engine for some of what it has not begun; its message `given` is for `take_given`."""
        if self.engine is not None:
            self._question = True
            self.engine.ask_to_give()

    def take_given(self, items: Iterable[Sequence[Any]]) -> list[str]:
        """Return the requests that the engine has given back: its own still, but no engine computes them."""
        self._question = False
        given = {request_id for request_id, _ in items}
        keys = [key for key in self._asked if self._name_of(key) in given]
        if not keys:
            self._silent_until = self.session.answered + LEAST_LEFT
        gone = set(keys)
        self._asked = tuple(key for key in self._asked if key not in gone)
        return keys

    def _name_of(self, key: str) -> str:
        """Return the name that a request has in jobs."""
        work = self._intake.work
        return str(work.rows[work.members[key][0]]["request_id"])

    def untouched(self) -> list[str]:
        """Return what is left that the last engine was not to compute."""
        asked = set(self._asked)
        return [key for key in self.left() if key not in asked]

    def begin(self, folder: Path | None, name: str, arrived: threading.Event) -> dict[str, Any] | None:
        """Start an engine for what is left, if anything is.

        Parameters
        ----------
        folder
            A job that has just this; None: it is written.
        name
            Of the new folder.
        arrived
            Set whenever a message has come.

        Returns
        -------
        dict
            Figures of the plan that was written; None if none was.
        """
        left = self.left()
        if not left:
            return None
        self._rests = False
        share = self.suspects.share(left)
        self._share, self._asked = share, tuple(left) if share is None else share.keys
        results = None
        if folder is None or share is not None:
            folder = self._night.scratch / name
            results = self._write_job(folder)
        if share is None:
            self.whole = folder
        self._folder = folder
        self._answered_before = self._silent_until = self.session.answered
        self._held.enter_context(self.session.engine_held(folder))
        self.engine = self._held.enter_context(self.place.start(folder))
        self.engine.notify(arrived)
        return results

    def _write_job(self, folder: Path) -> dict[str, Any]:
        """Plan what the next engine is to compute, and return figures about that plan."""
        keys, night, work = set(self._asked), self._night, self._intake.work
        part = replace(work, members={key: rows for key, rows in work.members.items() if key in keys})
        if self._share is not None and self._share.max_sequences is not None:
            width = min(self._share.max_sequences, night.settings.max_sequences)
            night = replace(night, settings=replace(night.settings, max_sequences=width))
        return write_plan(night, part, folder, self._intake.answers.choices)

    def take(self, epoch: int, message: dict[str, Any]) -> bool:
        """Take in a message of the engine of an epoch; return False if it is not the present one's."""
        if self.engine is None or epoch != self.epoch:
            log.warning(
                "replica %d: a message of engine %d came after its end and is dropped", self.number, epoch
            )
            return False
        # Whose requests are, is for the fleet to say.
        if message["type"] != "given":
            self.session.take(message)
        return True

    def rest(self) -> None:
        """Let others have the place, if there is nothing to compute."""
        if self.engine is None and not self.waits and not self._rests and not self.left():
            self._rests = True
            self.place.leave()

    def ask_to_stop(self) -> None:
        """Have the engine send what it has, and start none any more."""
        self.asked_to_stop = True
        if self.engine is not None:
            self.engine.ask_to_stop()

    def close(self) -> str | None:
        """End the present engine; return None if it answered everything, else why it did not."""
        engine, session = self.engine, self.session
        if engine is None:
            return None
        code = engine.close()
        self.engine = None
        self._question = False
        self._held.close()
        # One that has said why it ends, and is then too slow to end, was killed by us.
        if session.failure is not None and code < 0 and not session.said:
            session.failure = f"killed by signal {-code}"
        return session.failure

    def lose(self, why: str) -> None:
        """Take note that the place of the last engine is lost, which no request is to blame for.

        Raises
        ------
        StoppedError
            If that happens again and again without an answer.
        """
        self.waits = True
        self._take_progress()
        self.places_lost += 1
        self._losses += 1
        if self._losses > self._night.settings.engine_restarts:
            raise StoppedError(f"replica {self.number} lost its place {self._losses} times, last: {why}")
        log.warning("replica %d lost its place (%s); others go on with its requests", self.number, why)

    def judge(self, failure: str | None) -> list[Culprit]:
        """Draw the conclusions from the end of an engine; return which requests are not to be computed again.

        Raises
        ------
        StoppedError, EngineFailedError
            As `tasks.infer.suspects.Suspects.died`.
        """
        self._take_progress()
        if failure is None:
            self.suspects.ended()
        else:
            self._take_death(failure)
        return self.suspects.culprits(nothing_left=not self.left())

    def _take_progress(self) -> None:
        if self.session.answered > self._answered_before:
            self._losses = 0
            self.suspects.answered()

    def _take_death(self, failure: str) -> None:
        night, session, folder = self._night, self.session, self._folder
        if is_full(night.scratch):
            # That is what it died of.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(night.scratch))
        still = set(self._intake.work.open_keys())
        computing = None if folder is None else computed_at_the_end(self._intake.work, folder)
        # One that does not tell what it computes, but why it ends, knows better than any search.
        # Our own tells as soon as it is there.
        may_pass = computing is None and session.said and (session.ready or night.engine.name != NATIVE)
        if may_pass or not session.ready:
            computing = []
        self.suspects.died(
            failure,
            None if computing is None else [key for key in computing if key in still],
            [key for key in self._asked if key in still],
            may_pass=may_pass,
        )
        log.warning("the engine died (%s); starting it again", failure)

    @property
    def searches(self) -> bool:
        """Whether the last engine computed a share of the requests, to find one that engines die of."""
        return self._share is not None
