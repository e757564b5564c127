"""The replicas of a night: engines side by side that share its requests, and this process that takes all in.

One engine is a fleet of one. Each replica has its whole share from the start, so that it can blend all of it.
Requests move to a replica that has none left: first those that no engine has, such as those of one that has
died, but for what it may have died of (`suspects`); else half of those that wait in the engine with most
left, which is asked for them. They move once it has said that it has dropped them: none is in two engines.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pyarrow.compute as pc

from engine.errors import EngineError
from tasks.base.errors import ErrorCode, RequestError
from tasks.infer.progress import StoppedError
from tasks.infer.replica import Replica
from tasks.infer.replicas_now import ReplicasNow
from tasks.plan.plan import FIRST_FOLDER, write_plan
from tasks.plan.promises import FORECAST, Forecast
from tasks.plan.shares import divide_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tasks.infer.backends.contract import Place
    from tasks.infer.progress import InferProgress
    from tasks.infer.session import Intake
    from tasks.infer.suspects import Culprit
    from tasks.night.night import Night

log = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0
"""Without a message from an engine the step looks how far it is this often."""
LOOK_S: Final = 1.0
"""And so often for places that are not there yet."""
POLL_S: Final = 0.2
"""Before the first engine they are looked for more often."""
GATHER_S: Final = 20.0
"""Once one place is there, the others are waited for that long: a replica that comes later has no share."""
TELL_S: Final = 60.0
"""Between two messages that places are waited for."""


class Fleet:
    """Runs the replicas of an attempt, each at one of `places`.

    Attributes
    ----------
    replicas
        All of them; some never start where there are fewer requests.
    moves, moved
        How often requests went from one to another, and how many in all.
    """

    def __init__(self, night: Night, intake: Intake, places: Sequence[Place]) -> None:
        self._night, self._intake = night, intake
        worked = _has_worked(night)
        self.replicas = tuple(
            Replica(night, intake, number, place, has_worked=worked) for number, place in enumerate(places)
        )
        self.moves = self.moved = 0
        self._now = ReplicasNow(night.log, intake)
        self._arrived = threading.Event()
        self._next_look = 0.0
        self._on_progress: Callable[[InferProgress], None] | None = None
        self._asked = False
        self._failed = False

    @property
    def starts(self) -> int:
        """Engine processes started."""
        return sum(replica.session.starts for replica in self.replicas)

    @property
    def replans(self) -> int:
        """Plans that engines have made anew."""
        return sum(replica.session.replans for replica in self.replicas)

    @property
    def places_lost(self) -> int:
        """How often a place was gone while an engine computed there."""
        return sum(replica.places_lost for replica in self.replicas)

    @property
    def _alone(self) -> bool:
        return len(self.replicas) == 1

    def answer_all(self, on_progress: Callable[[InferProgress], None] | None, *, planned: bool) -> None:
        """Run engines until every request has an answer, or an error row because an engine died of it.

        Parameters
        ----------
        planned
            Whether the first folder, if there is one, is of all that is to be computed.
        """
        self._on_progress = on_progress
        folder = self._night.scratch / FIRST_FOLDER
        try:
            self._gather()
            self._deal_out(folder if planned and (folder / "job.json").exists() else None)
            while self._goes_on():
                self._arrived.clear()
                self._welcome()
                running = [replica for replica in self.replicas if replica.engine is not None]
                came = [self._take_from(replica) for replica in running]
                self._ask_for_work()
                if not any(came) and not self._arrived.wait(PATIENCE_S if self._all_placed else LOOK_S):
                    for replica in running:
                        replica.session.look_at_promises()
                    self._after_message()
        except BaseException:
            self._take_last()
            raise
        finally:
            self._now.end()
            for replica in self.replicas:
                replica.close()
                replica.place.leave()
        if self._asked and (self._failed or any(replica.left() for replica in self.replicas)):
            raise StoppedError("the run was asked to stop; run it again to go on")

    @property
    def _all_placed(self) -> bool:
        return not any(replica.waits for replica in self.replicas)

    def _gather(self) -> None:
        """Wait for the first place, and a little for the others, so that each begins with a share."""
        begin: float | None = None
        told = time.monotonic()
        while not self._asked:
            self._see_places()
            there = sum(not replica.waits for replica in self.replicas)
            if begin is None and there:
                begin = time.monotonic()
            if there == len(self.replicas) or (begin is not None and time.monotonic() - begin > GATHER_S):
                return
            if time.monotonic() - told > TELL_S:
                log.info("%d of %d places are there; waiting", there, len(self.replicas))
                told = time.monotonic()
            time.sleep(POLL_S)
            self._after_message()

    def _see_places(self) -> list[Replica]:
        """Return the replicas whose places have come."""
        came = [replica for replica in self.replicas if replica.waits and replica.place.ready()]
        for replica in came:
            replica.waits = False
        return came

    def _goes_on(self) -> bool:
        """Tell whether engines compute, or something is left for a replica that waits for its place."""
        if any(replica.engine is not None for replica in self.replicas):
            return True
        return not self._asked and any(replica.waits and replica.left() for replica in self.replicas)

    def _welcome(self) -> None:
        """Have replicas whose places have come in mid-run compute what is theirs, or part of the others'."""
        now = time.monotonic()
        if self._all_placed or self._asked or now < self._next_look:
            return
        self._next_look = now + LOOK_S
        for replica in self._see_places():
            self._begin(replica)
            if replica.engine is None:
                self._help(replica)

    def _deal_out(self, folder: Path | None) -> None:
        """Give each replica its share, and start them; `folder` has a job of all, None: there is none."""
        keys = self._intake.work.open_keys()
        if self._alone:
            self.replicas[0].add(keys)
            self._begin(self.replicas[0], folder)
            return
        forecast = _forecast_of_plan(self._night)
        if folder is None:
            folder = self._night.scratch / "whole"
            results = write_plan(self._night, self._intake.work, folder, self._intake.answers.choices)
            forecast = _forecast(results)
        # That of the whole: the pace at which it is followed is that of all.
        self._intake.promises.begin(forecast)
        there = [replica for replica in self.replicas if not replica.waits]
        for replica, share in zip(there, self._divide(folder, keys, max(len(there), 1)), strict=False):
            replica.whole = folder
            replica.add(share)
        for replica in there:
            self._begin(replica)

    def _divide(self, folder: Path, keys: Sequence[str], parts: int) -> list[list[str]]:
        return divide_job(self._night, self._intake.work, folder, keys, parts)

    def _begin(self, replica: Replica, folder: Path | None = None) -> None:
        """Start an engine of a replica that has something left; `folder` has the job, None: it is written."""
        if self._asked or replica.waits or not replica.left():
            return
        if not replica.place.ready():
            replica.waits = True
            return
        name = f"engine-{self.starts + 1}"
        results = replica.begin(folder, name, self._arrived)
        if replica.engine is None:
            return
        if self._alone:
            # Of a plan that was there the forecast is that of its step.
            forecast = _forecast_of_plan(self._night) if results is None else _forecast(results)
            self._intake.promises.begin(forecast)
        self._tell_progress()

    def _take_from(self, replica: Replica) -> bool:
        """Take in one message of a replica, or its end; return whether there was either."""
        engine = replica.engine
        if engine is None:
            return False
        message = engine.poll()
        if message is not None:
            replica.take(replica.epoch, message)
            if message["type"] == "given":
                self._take_given(replica, message["items"])
            self._after_message()
        elif engine.ended:
            self._end(replica)
        else:
            return False
        return True

    def _after_message(self) -> None:
        self._intake.writer.flush_if_due()
        self._tell_progress()
        self._night.log.check_held()
        if self._night.log.state.stop_requested is not None and not self._asked:
            self._asked = True
            for replica in self.replicas:
                replica.ask_to_stop()

    def _tell_progress(self) -> None:
        self._now.look(self.replicas)
        if self._on_progress is not None:
            self._on_progress(self._intake.progress([replica.session for replica in self.replicas]))

    def _end(self, replica: Replica) -> None:
        """Draw the conclusions from the end of an engine, and let the replica go on."""
        searched, engine = replica.searches, replica.engine
        failure = replica.close()
        if self._asked:
            self._failed = self._failed or failure is not None
            return
        if engine is not None and engine.lost is not None:
            replica.lose(engine.lost)
            self._move(replica)
            return
        for culprit in replica.judge(failure):
            self._set_aside(culprit)
        if failure is None and not searched:
            # What it did not answer although it says so is not asked for again; what it gave back, while
            # nobody rested any more, is.
            if replica.untouched():
                self._begin(replica)
            else:
                self._help(replica)
            return
        self._move(replica)
        self._begin(replica)
        if replica.engine is None:
            self._help(replica)

    def _move(self, dead: Replica) -> None:
        """Give requests of a replica without an engine to those that have nothing to do."""
        resting = [one for one in self._resting() if one is not dead]
        spare = dead.idle()
        stays = 0 if dead.waits else 1
        if not resting or dead.whole is None or len(spare) < len(resting) + stays:
            return
        # The last part stays with one that can go on itself.
        parts = self._divide(dead.whole, spare, len(resting) + stays)
        for taker, keys in zip(resting, parts, strict=False):
            self._pass_on(dead, taker, keys)

    def _help(self, resting: Replica) -> None:
        """Give a replica that has nothing left what others leave lying.

        One that looks for the cause of deaths shares it, one that has lost its place gives everything.
        """
        for other in self.replicas:
            spare = other.idle() if other is not resting else []
            if other.waits and spare:
                self._pass_on(other, resting, spare)
                return
            if len(spare) > 1 and other.whole is not None:
                self._pass_on(other, resting, self._divide(other.whole, spare, 2)[0])
                return

    def _resting(self) -> list[Replica]:
        return [one for one in self.replicas if one.engine is None and not one.waits and not one.left()]

    def _ask_for_work(self) -> None:
        """Have engines asked for what they have not begun: as many as replicas rest, those with most left."""
        # Those that wait for a place can take nothing.
        idle = sum(one.engine is None and not one.waits for one in self.replicas)
        open_questions = sum(one.is_asked for one in self.replicas)
        if self._asked or idle <= open_questions:
            return
        left = {one.number: one.could_give() for one in self.replicas}
        if not any(left.values()):
            if not open_questions:
                for replica in self.replicas:
                    replica.rest()
            return
        # Looked at last: it goes through all requests.
        wanted = len(self._resting()) - open_questions
        for number in sorted(left, key=lambda number: -left[number])[: max(wanted, 0)]:
            if left[number]:
                self.replicas[number].ask_to_give()

    def _take_given(self, giver: Replica, items: Sequence[Sequence[Any]]) -> None:
        """Start a replica that rests on what an engine has given back; if none does, it stays there."""
        keys = giver.take_given(items)
        resting = self._resting()
        if keys and resting:
            self._pass_on(giver, resting[0], keys)

    def _pass_on(self, giver: Replica, taker: Replica, keys: Sequence[str]) -> None:
        log.info("replica %d goes on with %d requests of replica %d", taker.number, len(keys), giver.number)
        self.moves, self.moved = self.moves + 1, self.moved + len(keys)
        giver.give_back(keys)
        taker.add(keys)
        self._begin(taker)

    def _set_aside(self, culprit: Culprit) -> None:
        work = self._intake.work
        row = work.rows[work.members[culprit.key][0]]
        log.warning(
            "the engine died of request %s (%s, line %s) more than once (%s); it is set aside as an error",
            row["request_id"],
            row["source_uri"],
            row["source_line"],
            culprit.why,
        )
        said = f"the engine died of this request more than once ({culprit.why}); the others were answered"
        self._intake.writer.add_error(culprit.key, RequestError(ErrorCode.ENGINE_ERROR, None, said))

    def _take_last(self) -> None:
        """Whatever ends the step: what is answered already is taken in before the engines are gone."""
        for replica in self.replicas:
            replica.ask_to_stop()
        if not self._night.log.is_holder:
            return
        for replica in self.replicas:
            if replica.engine is not None:
                with suppress(EngineError, StoppedError):
                    for message in replica.engine.last_messages():
                        replica.take(replica.epoch, message)


def _has_worked(night: Night) -> bool:
    """Tell whether an engine of this run has answered something: reused answers are of other runs."""
    return bool(pc.any(pc.equal(night.read_table("outputs", ["run_key"]).column(0), night.run_key)).as_py())


def _forecast_of_plan(night: Night) -> Forecast | None:
    step = night.log.state.steps.get("plan")
    return None if step is None else _forecast(step.results)


def _forecast(results: Mapping[str, Any]) -> Forecast | None:
    """Return when the answers of a plan are expected; None where nothing is promised."""
    told = results.get(FORECAST)
    return None if told is None else Forecast.read(told)
