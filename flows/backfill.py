"""The backfill flow: past dates of a nightly, each as a flow run of its deployment.

What a date needs is decided by the store's logs alone; Prefect runs them, a few at a time. A backfill that
is cancelled or killed is started again with its id and goes on: finished dates are skipped, dates under way
are found again by their idempotency key.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import httpx
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.dates.flow_runs import DateRuns, is_unsuccessful
from flows.dates.in_process import scope_of
from flows.parameters.backfill import BackfillParameters
from flows.views.date_table import (
    COLUMNS,
    FAILED,
    GAVE_WAY,
    PUBLISHED,
    STOPPED,
    UNDER_WAY,
    WAITING,
    DateEntry,
    cells_of,
    entries_of,
    headline,
    markdown_of,
    summary_of,
)
from tasks.infer.give_way import waits_for
from tasks.operations.backfill import date_range, plan_dates
from tasks.operations.dates import DateStatus, view_date
from tasks.store.contract import StoreUnavailableError
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun, State

    from tasks.operations.backfill import PlannedDate
    from tasks.operations.dates import DateView
    from tasks.store.contract import Store

log = logging.getLogger(__name__)

POLL_S: Final = 5.0
SUCCESSOR_S: Final = 120.0
"""How soon an automation has started a crashed run again, if it is going to."""


def run_name() -> str:
    """Return `backfill-{first}-{last}`, the name of the flow run."""
    given = flow_run.parameters["parameters"]
    asked = given if isinstance(given, BackfillParameters) else BackfillParameters.model_validate(given)
    return f"backfill-{asked.first}-{asked.last}" + ("-dry" if asked.dry_run else "")


@flow(name="backfill", flow_run_name=run_name, persist_result=False, validate_parameters=True)
def backfill(parameters: BackfillParameters) -> dict[str, Any]:
    """Run past dates of a nightly that are missing, failed or stale.

    Parameters
    ----------
    parameters
        Which dates, in what order, how many at a time.

    Returns
    -------
    dict
        As `flows.views.date_table.summary_of`. The state is `Failed` if a date failed; running it again with
        the same id goes on.
    """
    return _run(parameters)  # type: ignore[return-value]  # Prefect returns the state's data to a caller


def _run(asked: BackfillParameters) -> State[dict[str, Any]]:
    # A retry of this flow run keeps its id, and so goes on with the same backfill.
    backfill_id = asked.backfill_id or str(flow_run.id)[:8]
    runs = DateRuns.of(asked.deployment, backfill_id, queue=asked.work_queue)
    night = runs.night
    store = open_store(night.store)
    scope = scope_of(night, store, select=frozenset(asked.select), force=asked.force, asked_by=backfill_id)
    planned = plan_dates(scope, date_range(asked.first, asked.last, newest_first=asked.newest_first))
    entries = entries_of(_own(found, runs) for found in planned)

    def summary() -> dict[str, Any]:
        return summary_of(
            entries,
            job=night.job,
            backfill_id=backfill_id,
            price=asked.gpu_hour_price,
            dry_run=asked.dry_run,
        )

    get_run_logger().info("%s", headline(summary()))
    _show(summary())
    if asked.dry_run:
        return Completed(message=headline(summary()), data=summary())
    try:
        _Dates(store, runs, entries, lambda: _show(summary())).work_off(asked.parallel)
    finally:
        _show(summary())
    result = summary()
    if result["failed"] or result["stopped"]:
        message = f"{headline(result)} Run it again with backfill id {backfill_id} to go on."
        return Failed(message=message, data=result)
    return Completed(message=headline(result), data=result)


def _own(planned: PlannedDate, runs: DateRuns) -> PlannedDate:
    """Take a date up again that an earlier flow run of this backfill has started."""
    if planned.status == DateStatus.RUNNING and runs.is_under_way(planned.run_date):
        return replace(planned, runs=True, reason="this backfill has started it")
    return planned


class _Dates:
    """Keeps a few dates under way until all have ended."""

    def __init__(
        self, store: Store, runs: DateRuns, entries: list[DateEntry], changed: Callable[[], None]
    ) -> None:
        self._store, self._runs, self._changed = store, runs, changed
        self._entries = {entry.planned.run_date: entry for entry in entries if entry.planned.runs}
        self._under_way: dict[date, UUID] = {}

    def work_off(self, parallel: int) -> None:
        """Run all dates, in their order, at most `parallel` at a time."""
        try:
            while self._of(WAITING, UNDER_WAY, GAVE_WAY):
                try:
                    self._start(parallel)
                    time.sleep(POLL_S)
                    self._look()
                except (httpx.TransportError, StoreUnavailableError) as error:
                    log.warning("cannot look at the dates just now: %s", type(error).__name__)
                    time.sleep(POLL_S)
        except BaseException:
            # Cancelled or stopped: so are its dates, which keep what they have answered.
            for day, run_id in self._under_way.items():
                self._entries[day].outcome = STOPPED
                try:
                    self._runs.cancel(run_id)
                except httpx.HTTPError as error:
                    log.warning("%s was not cancelled: %s", day, type(error).__name__)
            raise

    def _of(self, *outcomes: str) -> list[date]:
        return [day for day, entry in self._entries.items() if entry.outcome in outcomes]

    def _start(self, parallel: int) -> None:
        """Start what may start, dates that gave way first."""
        ready = [day for day in self._of(GAVE_WAY) if not self._waits(day)] + self._of(WAITING)
        free = parallel - len(self._under_way)
        for day in ready[:free]:
            entry = self._entries[day]
            rerun = entry.planned.rerun and self._view(day).status is DateStatus.DONE
            self._under_way[day] = self._runs.start(day, rerun=rerun).id
            entry.outcome, entry.note = UNDER_WAY, ""
        if ready[:free]:
            self._changed()

    def _look(self) -> None:
        for day, run_id in list(self._under_way.items()):
            run = self._runs.read(run_id)
            if run is None or _has_ended(run):
                del self._under_way[day]
                self._settle(day, run)
                self._changed()

    def _settle(self, day: date, run: FlowRun | None) -> None:
        """Say what came of a date: the store's log does, not the state of the flow run."""
        entry, view = self._entries[day], self._view(day)
        state = run.state_name or "" if run is not None else "the flow run was deleted"
        failed = run is None or is_unsuccessful(run)
        last = view.last_run.state if view.last_run is not None else None
        if view.status is DateStatus.DONE and not failed:
            entry.outcome = PUBLISHED
            entry.note = "" if state == "Completed" else state
        elif view.status is DateStatus.STOPPED and last is not None and last.stop_requested is not None:
            by_run = bool(last.stop_requested.by)
            entry.outcome = GAVE_WAY if by_run else STOPPED
            entry.note = last.stop_requested.reason
        elif view.status is DateStatus.STOPPED:
            entry.outcome, entry.note = STOPPED, state
        else:
            ended = last.ended if last is not None else None
            why = str(ended.summary.get("message", "")) if ended is not None else ""
            entry.outcome, entry.note = FAILED, why or state

    def _waits(self, day: date) -> bool:
        last = self._view(day).last_run
        return last is not None and waits_for(last.log) is not None

    def _view(self, day: date) -> DateView:
        return view_date(self._store, self._runs.night.job, day, lease_s=self._runs.night.lease_s)


def _has_ended(run: FlowRun) -> bool:
    """Tell whether a flow run has ended, and nothing will take its place any more."""
    if run.state is None or not run.state.is_final():
        return False
    since = datetime.now(UTC) - (run.end_time or run.state.timestamp)
    return not run.state.is_crashed() or since.total_seconds() > SUCCESSOR_S


def _show(summary: dict[str, Any]) -> None:
    rows = [dict(zip(COLUMNS, cells_of(row), strict=True)) for row in summary["rows"]]
    key = f"backfill-{summary['job']}"
    create_markdown_artifact(markdown_of(summary), key=key, description=headline(summary))
    create_table_artifact(rows, key=f"{key}-dates", description=headline(summary))
