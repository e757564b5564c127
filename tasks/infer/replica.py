"""One of the engines that share the requests of a run: its own requests, its process, what it dies of."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.choices import NATIVE
from tasks.base.disk import is_full
from tasks.infer.backends.engine_process import engine_process
from tasks.infer.session import EngineSession
from tasks.infer.suspects import Suspects, computed_at_the_end
from tasks.plan.plan import write_plan

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable
    from pathlib import Path

    from tasks.infer.backends.engine_process import EngineProcess
    from tasks.infer.session import Intake
    from tasks.infer.suspects import Culprit, Share
    from tasks.night.night import Night

log = logging.getLogger(__name__)


class Replica:
    """Answers its part of the requests with one engine process after the other.

    Parameters
    ----------
    number
        From 0.
    device
        What its engines compute on.
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
    asked_to_stop
        Whether it is to start no engine any more.
    """

    def __init__(self, night: Night, intake: Intake, number: int, device: str, *, has_worked: bool) -> None:
        self._night = replace(night, settings=replace(night.settings, device=device))
        self._intake = intake
        self.number = number
        self.session = EngineSession(intake, number)
        self.suspects = Suspects(night.settings.engine_restarts, has_worked=has_worked)
        self.engine: EngineProcess | None = None
        self.whole: Path | None = None
        self.asked_to_stop = False
        self._keys: set[str] = set()
        self._share: Share | None = None
        self._asked: tuple[str, ...] = ()
        self._folder: Path | None = None
        self._answered_before = 0
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
        share = self.suspects.share(left)
        self._share, self._asked = share, tuple(left) if share is None else share.keys
        results = None
        if folder is None or share is not None:
            folder = self._night.scratch / name
            results = self._write_job(folder)
        if share is None:
            self.whole = folder
        self._folder = folder
        self._answered_before = self.session.answered
        self._held.enter_context(self.session.engine_held(folder))
        self.engine = self._held.enter_context(engine_process(folder))
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
        self.session.take(message)
        return True

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
        self._held.close()
        # One that has said why it ends, and is then too slow to end, was killed by us.
        if session.failure is not None and code < 0 and not session.said:
            session.failure = f"killed by signal {-code}"
        return session.failure

    def judge(self, failure: str | None) -> list[Culprit]:
        """Draw the conclusions from the end of an engine; return which requests are not to be computed again.

        Raises
        ------
        StoppedError, EngineFailedError
            As `tasks.infer.suspects.Suspects.died`.
        """
        if self.session.answered > self._answered_before:
            self.suspects.answered()
        if failure is None:
            self.suspects.ended()
        else:
            self._take_death(failure)
        return self.suspects.culprits(nothing_left=not self.left())

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
