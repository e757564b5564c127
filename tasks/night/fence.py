"""Who may publish a date: its log orders the times at which runs listed the source.

Two runs of a date have different inputs, so at least one of them has read what is no longer the source. Each
says in the date's log that it has listed, and how long that log was before it did: a run whose record came
after that is one whose listing may be the newer one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tasks.runlog.liveness import held_by_live
from tasks.runlog.log import RunIsLiveError, RunLog, is_live
from tasks.runlog.places import date_prefix, logs_below
from tasks.runlog.records import Listed, LogFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from tasks.runlog.state import RunState
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

_RUN_AGAIN: Final = (
    "Run it again: the source is read anew, and what is answered is used. --force publishes what was read."
)


class NewerListingError(Exception):
    """A run that read a newer listing of the source has published the date, or holds it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a run has read the source of its date.

    Attributes
    ----------
    after
        How many records the date's log had before the source was listed.
    listing
        Digest of the objects that were listed.
    number
        Of the record in the date's log that says so; None as long as it is not there.
    """

    after: int
    listing: str
    number: int | None = None


def begin_reading(store: Store, job: str, run_date: date) -> int:
    """Return how long the log of a date is; to be called before its source is listed."""
    return RunLog(store, date_prefix(job, run_date.isoformat())).refresh().next_seq


def announce(run_log: RunLog, reading: Reading) -> Reading:
    """Say in the date's log that a run, held by this process, has read the source; return its number, too."""
    listed = Listed(_run_key(run_log.prefix), reading.listing, reading.after)
    return replace(reading, number=_date_log(run_log).note(listed))


def check_first(run_log: RunLog, reading: Reading, *, take_over: bool = False) -> None:
    """Look that no other run of the date was there first; one that seems dead is waited for as `claim` does.

    Parameters
    ----------
    run_log
        Of the run, held by this process.
    reading
        What it has read, announced.
    take_over
        Ask a live run of the date to stop instead of raising.

    Raises
    ------
    RunIsLiveError
        If another run of the date is alive, is to publish it, and has announced itself before.
    """
    listed = _date_log(run_log).refresh().listed
    for other in _other_live_runs(run_log):
        theirs = listed.get(_run_key(other.prefix))
        if theirs is None and not _is_of_an_earlier_release(other):
            # It has not come as far as this yet, and will find this run then.
            continue
        if theirs is not None and reading.number is not None and theirs[0] > reading.number:
            continue
        if take_over:
            other.request_stop("another run takes the date over")
            continue
        if not _gives_sign(other):
            log.info("run %s has given no sign of life; going on", _run_key(other.prefix))
            continue
        holder, age = other.state.holder, other.sign_of_life_age()
        if holder is not None:
            day = run_log.prefix.rpartition("/")[0]
            held = held_by_live(day, holder, age, other.lease_s)
            raise RunIsLiveError(
                f"{held} It is run {_run_key(other.prefix)}, with another state of the input."
            )


def check_newest(run_log: RunLog, reading: Reading, date_state: RunState) -> None:
    """Look that no run with a newer listing of the source has published the date, or holds it.

    Parameters
    ----------
    run_log
        Of the run that is about to publish.
    reading
        What it has read, announced.
    date_state
        Of the date's log, as its holder sees it.

    Raises
    ------
    NewerListingError
        If there is one.
    """
    mine = _run_key(run_log.prefix)
    for published in date_state.publications:
        number, listing = published.details.get("listed"), published.details.get("listing")
        # A publication with requests taken out has no listing: it stands against the run it was made of, too.
        same = listing is not None and (listing == reading.listing or published.run_key == mine)
        if number is not None and number >= reading.after and not same:
            raise NewerListingError(
                f"run {published.run_key} listed the source later and has published the date, so run {mine} "
                f"publishes nothing. {_RUN_AGAIN}"
            )
    for other in _other_live_runs(run_log):
        theirs = date_state.listed.get(_run_key(other.prefix))
        if theirs is None or reading.number is None or theirs[0] < reading.number:
            continue
        if theirs[1].listing != reading.listing:
            raise NewerListingError(
                f"run {_run_key(other.prefix)} listed the source later and is under way, so run {mine} "
                f"publishes nothing. Wait until that one ends. {_RUN_AGAIN}"
            )


def _date_log(run_log: RunLog) -> RunLog:
    job, _, day = run_log.prefix.split("/")[-4:-1]
    return RunLog(run_log.store, date_prefix(job, day.removeprefix("run_date=")), lease_s=run_log.lease_s)


def _run_key(prefix: str) -> str:
    return prefix.rpartition("/")[2]


def _other_live_runs(run_log: RunLog) -> Iterator[RunLog]:
    """Yield the other runs of a date that somebody is at and that are to publish it."""
    folder = run_log.prefix.rpartition("/")[0]
    for prefix in list(logs_below(run_log.store, folder)):
        if prefix == run_log.prefix:
            continue
        other = RunLog(run_log.store, prefix, lease_s=run_log.lease_s)
        try:
            if not is_live(other):
                continue
        except LogFormatError as error:
            log.warning("a run that cannot go on is left out: %s", error)
            continue
        attempt = other.state.attempt
        if attempt is None or attempt.params.get("publish", True):
            yield other


def _gives_sign(run: RunLog) -> bool:
    """Wait for the next sign of life of the holder of a run; return False if its lease is over before."""
    age = run.sign_of_life_age()
    while is_live(run):
        time.sleep(max(0.05, min(1.0, run.lease_s - age)))
        before, age = age, run.sign_of_life_age()
        if age < before:
            return True
    return False


def _is_of_an_earlier_release(run: RunLog) -> bool:
    """Tell whether the attempt under way was opened by a release that says nothing in the date's log."""
    attempt = run.state.attempt
    return attempt is not None and run.state.ended is None and "listed" not in attempt.params
