"""Each night first looks whether dates before its own are missing or failed, and has them run too."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from flows.dates.in_process import run_here, scope_of
from flows.run.failures import describe, exit_code_of
from flows.views.date_table import entries_of
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError
from tasks.base.run_date import is_dated
from tasks.operations.backfill import date_range, plan_dates
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from flows.parameters.nightly import NightlyParameters
    from flows.run.sequence import Steps
    from tasks.operations.backfill import PlannedDate

log = logging.getLogger(__name__)

DATES: Final = "nightly/dates"
"""Deployment for dates, where there is one: of the nightly's own one run goes at a time, and a night must not
wait for a past date."""


def catch_up(night: NightlyParameters, run_date: date | None) -> list[PlannedDate]:
    """Return the dates before a night's own that are missing or failed and have input, oldest first.

    Parameters
    ----------
    night
        As it was asked for. A night for a given date catches up with nothing, nor does one whose source has
        no dates.
    run_date
        Its date.
    """
    if run_date is None or night.run_date is not None or not is_dated(night.source):
        return []
    first = run_date - timedelta(days=night.catch_up_days)
    scope = scope_of(night, open_store(night.store))
    planned = plan_dates(scope, date_range(first, run_date - timedelta(days=1)))
    found = [entry for entry in planned if entry.runs]
    for entry in found:
        log.warning("%s is caught up with: %s", entry.run_date, entry.reason)
    return found


@contextmanager
def catching_up(
    night: NightlyParameters,
    run_date: date | None,
    *,
    deployment: str | None = None,
    steps: Steps | None = None,
) -> Iterator[list[PlannedDate]]:
    """Plan before the block what a night catches up with, and have it run after the block.

    After it, so that the night itself has the device first; also if the night fails, but not if it is
    stopped. What hinders catching up is logged: the night, and how it ended, stands.

    Parameters
    ----------
    night, run_date
        As for `catch_up`.
    deployment
        Id of the deployment that started the night: the dates become flow runs of it. None runs them here.
    steps
        As for `flows.run.sequence.run_night`, for dates that run here.
    """
    planned: list[PlannedDate] = []
    with _logged("the dates before could not be looked at"):
        planned = catch_up(night, run_date)
    try:
        yield planned
    except Exception as error:
        if exit_code_of(error) is not ExitCode.STOPPED:
            with _logged("the dates before could not be run"):
                _have_run(night, planned, run_date, deployment, steps)
        raise
    with _logged("the dates before could not be run"):
        _have_run(night, planned, run_date, deployment, steps)


@contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a damaged log of a past date, or a server that is down
        log.warning("%s: %s", what, describe(error))


def _have_run(
    night: NightlyParameters,
    planned: Sequence[PlannedDate],
    run_date: date | None,
    deployment: str | None,
    steps: Steps | None,
) -> None:
    if not planned or run_date is None:
        return
    asked_by = f"catch-up-{run_date.isoformat()}"
    if deployment is None:
        entries = entries_of(planned)
        night = night.with_preset()
        run_here(night, open_store(night.store), entries, asked_by=asked_by, gives_way=True, steps=steps)
        for entry in entries:
            log.warning("%s %s", entry.planned.run_date, entry.outcome)
        return
    from flows.dates.flow_runs import DateRuns

    try:
        runs = DateRuns.of(DATES, asked_by, night=night, queue="backfill")
    except ConfigurationError:
        runs = DateRuns.of(UUID(deployment), asked_by, night=night, queue="backfill")
    for found in planned:
        log.warning("%s runs as %s", found.run_date, runs.start(found.run_date).name)
