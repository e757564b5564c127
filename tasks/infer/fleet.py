"""The replicas of a night: engines side by side that share its requests, and this process that takes all in.

One engine is a fleet of one. Each replica has its whole share from the start, so that it can blend all of it.
Requests move to a replica that has none left only where no engine has them: those of an engine that has died,
but for what it may have died of (`suspects`).
"""

from __future__ import annotations

import logging
import threading
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

    from tasks.infer.progress import InferProgress
    from tasks.infer.session import Intake
    from tasks.infer.suspects import Culprit
    from tasks.night.night import Night

log = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0
"""Without a message from an engine the step looks how far it is this often."""


class Fleet:
    """Runs the replicas of an attempt, each on one of `devices`.

    Attributes
    ----------
    replicas
        All of them; some never start where there are fewer requests.
    """

    def __init__(self, night: Night, intake: Intake, devices: Sequence[str]) -> None:
        self._night, self._intake = night, intake
        worked = _has_worked(night)
        self.replicas = tuple(
            Replica(night, intake, number, device, has_worked=worked) for number, device in enumerate(devices)
        )
        self._now = ReplicasNow(night.log, intake)
        self._arrived = threading.Event()
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
            self._deal_out(folder if planned and (folder / "job.json").exists() else None)
            while running := [replica for replica in self.replicas if replica.engine is not None]:
                self._arrived.clear()
                came = [self._take_from(replica) for replica in running]
                if not any(came) and not self._arrived.wait(PATIENCE_S):
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
        if self._asked and (self._failed or any(replica.left() for replica in self.replicas)):
            raise StoppedError("the run was asked to stop; run it again to go on")

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
        shares = self._divide(folder, keys, len(self.replicas))
        for replica, share in zip(self.replicas, shares, strict=True):
            replica.add(share)
        for replica in self.replicas:
            self._begin(replica)

    def _divide(self, folder: Path, keys: Sequence[str], parts: int) -> list[list[str]]:
        return divide_job(self._night, self._intake.work, folder, keys, parts)

    def _begin(self, replica: Replica, folder: Path | None = None) -> None:
        """Start an engine of a replica that has something left; `folder` has the job, None: it is written."""
        if self._asked:
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
        searched = replica.searches
        failure = replica.close()
        if self._asked:
            self._failed = self._failed or failure is not None
            return
        for culprit in replica.judge(failure):
            self._set_aside(culprit)
        if failure is None and not searched:
            # What it did not answer although it says so is not asked for again.
            self._help(replica)
            return
        self._move(replica)
        self._begin(replica)
        if replica.engine is None:
            self._help(replica)

    def _move(self, dead: Replica) -> None:
        """Give requests of a replica without an engine to those that have nothing to do."""
        resting = [one for one in self.replicas if one.engine is None and one is not dead and not one.left()]
        spare = dead.idle()
        if not resting or dead.whole is None or len(spare) <= len(resting):
            return
        # The last part stays.
        parts = self._divide(dead.whole, spare, len(resting) + 1)
        for taker, keys in zip(resting, parts, strict=False):
            self._pass_on(dead, taker, keys)

    def _help(self, resting: Replica) -> None:
        """Give a replica that has nothing left what one that looks for the cause of deaths leaves lying."""
        for other in self.replicas:
            spare = other.idle() if other is not resting else []
            if len(spare) > 1 and other.whole is not None:
                self._pass_on(other, resting, self._divide(other.whole, spare, 2)[0])
                return

    def _pass_on(self, giver: Replica, taker: Replica, keys: Sequence[str]) -> None:
        log.info("replica %d goes on with %d requests of replica %d", taker.number, len(keys), giver.number)
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
