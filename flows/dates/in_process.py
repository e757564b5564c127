"""Dates one after the other in this process: a backfill without Prefect, a catch-up without deployment."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.parameters.backfill import new_id
from flows.parameters.to_request import night_request
from flows.run.failures import exit_code_of
from flows.run.sequence import run_night
from flows.views.date_table import (
    FAILED,
    GAVE_WAY,
    PUBLISHED,
    STOPPED,
    UNDER_WAY,
    WAITING,
    entries_of,
    summary_of,
)
from tasks.base.accounting import ExitCode
from tasks.base.errors import bounded
from tasks.base.identity import model_digest
from tasks.infer.give_way import wait_until_free, waits_for
from tasks.infer.progress import StoppedError
from tasks.night.model import find_model
from tasks.operations.backfill import Scope, date_range, plan_dates
from tasks.operations.dates import view_date
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date
    from typing import Any

    from flows.parameters.backfill import BackfillParameters
    from flows.parameters.nightly import NightlyParameters
    from flows.run.reporter import Reporter
    from flows.run.sequence import Steps
    from flows.views.date_table import DateEntry
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 24 * 3600.0
"""For the run that a date gave way to."""


def scope_of(night: NightlyParameters, store: Store, **chosen: Any) -> Scope:  # noqa: ANN401 - fields of Scope
    """Return whose dates are meant; `chosen` are further fields of `Scope`."""
    return Scope(
        store,
        night.job,
        night.source,
        model=lambda: model_digest(find_model(night.model)),
        lease_s=night.lease_s,
        **chosen,
    )


def backfill_here(
    asked: BackfillParameters,
    night: NightlyParameters,
    reporter: Callable[[DateEntry], Reporter] | None = None,
) -> dict[str, Any]:
    """Run a backfill in this process.

    Parameters
    ----------
    asked
        Which dates, in what order; `deployment`, `parallel` and `work_queue` have no meaning here.
    night
        The night to run for each date.
    reporter
        Makes what is told how a date goes on.

    Returns
    -------
    dict
        As `flows.views.date_table.summary_of`.

    Raises
    ------
    ConfigurationError
        If a setting is wrong; nothing has run then.
    """
    # A preset does not decide whether a date is published.
    night = night.with_preset()
    night_request(night.model_copy(update={"run_date": asked.first}))
    backfill_id = asked.backfill_id or new_id()
    store = open_store(night.store)
    scope = scope_of(night, store, select=frozenset(asked.select), force=asked.force, asked_by=backfill_id)
    days = date_range(asked.first, asked.last, newest_first=asked.newest_first)
    entries = entries_of(plan_dates(scope, days))
    if not asked.dry_run:
        run_here(night, store, entries, asked_by=backfill_id, gives_way=True, reporter=reporter)
    return summary_of(
        entries,
        job=night.job,
        backfill_id=backfill_id,
        price=asked.gpu_hour_price,
        dry_run=asked.dry_run,
    )


def run_here(
    night: NightlyParameters,
    store: Store,
    entries: Sequence[DateEntry],
    *,
    asked_by: str,
    gives_way: bool,
    reporter: Callable[[DateEntry], Reporter] | None = None,
    steps: Steps | None = None,
) -> None:
    """Run the waiting dates in their order and write down what came of each.

    A date that fails does not keep the others from running. A date that gave way to another run goes on when
    that one has ended.
    """
    for entry in entries:
        if entry.outcome != WAITING:
            continue
        entry.outcome = UNDER_WAY
        try:
            _run_date(night, store, entry, asked_by, gives_way, reporter, steps)
        except Exception as error:  # noqa: BLE001 - recorded; the other dates are not to blame
            stopped = exit_code_of(error) is ExitCode.STOPPED
            entry.outcome, entry.note = STOPPED if stopped else FAILED, _told(store, night.job, entry, error)
            log.warning("%s %s: %s", entry.planned.run_date, entry.outcome, entry.note)
        except BaseException:
            entry.outcome = STOPPED
            raise


def _run_date(
    night: NightlyParameters,
    store: Store,
    entry: DateEntry,
    asked_by: str,
    gives_way: bool,
    reporter: Callable[[DateEntry], Reporter] | None,
    steps: Steps | None,
) -> None:
    day, rerun = entry.planned.run_date, entry.planned.rerun
    asked = {"run_date": day, "publish": True, "give_way": gives_way, "take_over": False, "force": False}
    while True:
        parameters = night.model_copy(update={**asked, "rerun": rerun})
        request = replace(night_request(parameters), asked_by=asked_by)
        try:
            result = run_night(request, steps=steps, reporter=reporter(entry) if reporter else None)
        except StoppedError:
            if not _gave_way(store, night, day):
                raise
            log.warning("%s gave way to another run and goes on after it", day)
            entry.outcome = GAVE_WAY
            # The attempt is open: what it has answered counts.
            rerun = False
            _wait(store, night, day)
            entry.outcome = UNDER_WAY
        else:
            entry.outcome = PUBLISHED
            entry.note = "" if result["status"] == "Completed" else str(result["status"])
            return


def _gave_way(store: Store, night: NightlyParameters, day: date) -> bool:
    last = view_date(store, night.job, day, lease_s=night.lease_s).last_run
    asked = last.state.stop_requested if last is not None else None
    return asked is not None and bool(asked.by)


def _wait(store: Store, night: NightlyParameters, day: date) -> None:
    last = view_date(store, night.job, day, lease_s=night.lease_s).last_run
    other = waits_for(last.log) if last is not None else None
    if other is not None:
        wait_until_free(other, LONGEST_WAIT_S)


def _told(store: Store, job: str, entry: DateEntry, error: Exception) -> str:
    """Return what the log says of the failure, else its type: its own words could quote a prompt."""
    last = view_date(store, job, entry.planned.run_date).last_run
    ended = last.state.ended if last is not None else None
    said = ended.summary.get("message") if ended is not None else None
    return bounded(str(said or type(error).__name__), 200)
