"""How a date stands: its runs and its publication, read from the store alone.

Nothing here needs a claim or changes anything, and Prefect's states play no part: what the logs say is what
`status`, catch-up and backfill go by.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tasks.attempt.ended import KILLED
from tasks.base.accounting import ExitCode
from tasks.publish.current import date_log
from tasks.runlog.log import RunLog, is_live
from tasks.runlog.records import Claim
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from datetime import date, datetime

    from tasks.runlog.records import Attempt, AttemptEnded, Owner, Published
    from tasks.runlog.state import RunState
    from tasks.store.contract import Store

LEASE_S: Final = 90.0


class DateStatus(StrEnum):
    """How a date stands."""

    DONE = "done"
    """Published, and no later run of it is unfinished."""
    RUNNING = "running"
    """A live process holds one of its runs."""
    STOPPED = "stopped"
    """Its last run was stopped and can go on."""
    KILLED = "killed"
    """Its last run ended without a word."""
    FAILED = "failed"
    """Its last run failed."""
    MISSING = "missing"
    """No run has tried to publish it."""


UNSUCCESSFUL: Final = frozenset({DateStatus.STOPPED, DateStatus.KILLED, DateStatus.FAILED})


@dataclass(frozen=True, slots=True)
class RunView:
    """One run of a date.

    Attributes
    ----------
    log
        Its log, read and not held.
    last_written
        When its log was last appended to, by the store's clock.
    silence_s
        Seconds since the holder's last sign of life; None for a run that nobody holds.
    is_live
        Whether somebody holds it and is there.
    """

    log: RunLog
    last_written: datetime
    silence_s: float | None
    is_live: bool

    @property
    def state(self) -> RunState:
        """The fold of its log."""
        return self.log.state

    @property
    def run_key(self) -> str:
        """Last step of its prefix."""
        return self.log.prefix.rpartition("/")[2]

    @property
    def owner(self) -> Owner | None:
        """Who holds it."""
        holder = self.state.holder
        return holder.body.owner if holder is not None and isinstance(holder.body, Claim) else None

    @property
    def publishes(self) -> bool:
        """Whether its last attempt was to publish the date."""
        attempt = self.state.attempt
        return attempt is None or bool(attempt.params.get("publish", True))

    @property
    def gave_up(self) -> bool:
        """Whether it left the date to another run, which was there first or has read the source later."""
        if self.state.attempt is None:
            return not self.is_live
        return self.state.ended is not None and self.state.ended.exit_code == ExitCode.OTHER_OWNER

    @property
    def failure(self) -> tuple[Attempt, AttemptEnded] | None:
        """The last attempt that ended without finishing the run, and how it ended."""
        for attempt in reversed(self.state.attempts):
            ended = self.state.endings.get(attempt.id)
            if ended is not None and ended.status in {"failed", "stopped"}:
                return attempt, ended
        return None


@dataclass(frozen=True, slots=True)
class DateView:
    """How a date stands.

    Attributes
    ----------
    current
        The publication that counts, if there is one.
    rolled_back
        Whether a person went back to it from a later one.
    runs
        All runs of the date, the one that was written to last at the end.
    """

    job: str
    run_date: date
    status: DateStatus
    current: Published | None
    rolled_back: bool
    runs: tuple[RunView, ...]

    @property
    def last_run(self) -> RunView | None:
        """The run that the status speaks of: a live one, else the last to publish, else the last."""
        live = [run for run in self.runs if run.is_live]
        publishing = [run for run in self.runs if run.publishes and not run.gave_up]
        found = live or publishing or list(self.runs)
        return found[-1] if found else None

    @property
    def current_run(self) -> RunView | None:
        """The run that the current publication came from."""
        if self.current is None:
            return None
        return next((run for run in self.runs if run.run_key == self.current.run_key), None)


def view_date(store: Store, job: str, run_date: date, *, lease_s: float = LEASE_S) -> DateView:
    """Read how a date stands.

    Parameters
    ----------
    lease_s
        A holder that has been silent for longer counts as gone.
    """
    published = date_log(store, job, run_date, lease_s=lease_s).refresh()
    current = current_publication(published)
    names = [entry.publication_id for entry in published.publications]
    rolled_back = current is not None and current.publication_id in names[:-1]
    runs = _runs(store, job, run_date, lease_s)
    return DateView(job, run_date, _status(runs, current), current, rolled_back, runs)


def _runs(store: Store, job: str, run_date: date, lease_s: float) -> tuple[RunView, ...]:
    place = f"{job}/runs/run_date={run_date.isoformat()}/"
    written: dict[str, datetime] = {}
    for info in store.list(place):
        run_key, _, rest = info.key.removeprefix(place).partition("/")
        if rest.startswith("log/"):
            written[run_key] = max(info.last_modified, written.get(run_key, info.last_modified))
    found = []
    for run_key, last_written in written.items():
        log = RunLog(store, f"{place}{run_key}", lease_s=lease_s)
        live = is_live(log)
        silence = None if log.state.holder is None else log.sign_of_life_age()
        found.append(RunView(log, last_written, silence, live))
    return tuple(sorted(found, key=lambda run: (run.last_written, run.run_key)))


def _status(runs: tuple[RunView, ...], current: Published | None) -> DateStatus:
    if any(run.is_live for run in runs):
        return DateStatus.RUNNING
    publishing = [run for run in runs if run.publishes and not run.gave_up]
    if publishing and not publishing[-1].state.finished:
        ended = publishing[-1].state.ended
        if ended is None or ended.summary.get("reason") == KILLED:
            return DateStatus.KILLED
        return DateStatus.STOPPED if ended.status == "stopped" else DateStatus.FAILED
    return DateStatus.DONE if current is not None else DateStatus.MISSING
