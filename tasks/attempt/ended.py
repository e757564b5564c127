"""Attempts that ended without a publication, as rows of the table `batch_runs`.

The run's log says how each ended, so whoever opens the run next writes what is missing: a killed attempt gets
its row from its successor, and so does one that ended while the catalog could not be reached.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tasks.base.accounting import RunStatus
from tasks.runlog.records import utc_now

if TYPE_CHECKING:
    from datetime import date

    from tasks.runlog.log import RunLog
    from tasks.runlog.records import AttemptEnded
    from tasks.runlog.state import RunState

log = logging.getLogger(__name__)

KILLED: Final = "killed"
_FAILED: Final = frozenset({"failed", "stopped"})


def end_killed(run_log: RunLog) -> None:
    """Record that the attempts without an ending were killed; `run_log` is held by their successor."""
    for attempt in run_log.state.unended_attempts:
        run_log.end_attempt("failed", 4, ending(KILLED), attempt_id=attempt.id)


def ending(reason: str, *, aborted: bool = False) -> dict[str, Any]:
    """Return the summary of an attempt that ends now without a publication.

    Parameters
    ----------
    reason
        Name of the type of an error, or `KILLED`: an error's text could quote a prompt.
    aborted
        Whether too much was in quarantine.
    """
    return {"reason": reason, "aborted": aborted, "ended_at": utc_now()}


def failed_rows(state: RunState, job: str, run_date: date, run_key: str) -> list[dict[str, Any]]:
    """Return the rows of `batch_runs` of the attempts that ended without a publication.

    What was answered or refused counts up to the attempt, those before it included, as far as a fresh attempt
    has not put it aside.
    """
    extract = state.steps.get("extract")
    account = extract.results["account"] if extract is not None else {}
    rows: list[dict[str, Any]] = []
    so_far: set[str] = set()
    for attempt in state.attempts:
        so_far.add(attempt.id)
        end = state.endings.get(attempt.id)
        if end is None or end.status not in _FAILED:
            continue
        counts = {
            kind: sum(part.count for part in state.parts_of(kind) if part.attempt_id in so_far)
            for kind in ("outputs", "errors")
        }
        ended_at = end.summary.get("ended_at")
        known = account if extract is not None and extract.attempt_id in so_far else {}
        rows.append(
            {
                "job": job,
                "run_date": run_date,
                "run_key": run_key,
                "attempt_id": attempt.id,
                "status": _status(end).value,
                "exit_code": end.exit_code,
                "reason": end.summary.get("reason"),
                "ended_at": datetime.fromisoformat(ended_at) if ended_at else None,
                "policy": attempt.policy,
                "device": attempt.device or None,
                **{name: known.get(name) for name in ("requests", "quarantined", "filtered")},
                **counts,
                "snapshots": [],
            }
        )
    return rows


def _status(end: AttemptEnded) -> RunStatus:
    if end.summary.get("reason") == KILLED:
        return RunStatus.KILLED
    if end.summary.get("aborted"):
        return RunStatus.ABORTED
    return RunStatus.STOPPED if end.status == "stopped" else RunStatus.FAILED


def record_failed(run_log: RunLog, job: str, run_date: date, run_key: str, catalog: str | None) -> None:
    """Give the run's attempts that ended without a publication their rows, as far as they have none.

    A catalog that cannot be reached changes nothing for the run: the next attempt tries again.

    Parameters
    ----------
    run_log
        Of the run, held by this process.
    catalog
        URI of the Iceberg catalog; None has no tables.
    """
    rows = failed_rows(run_log.state, job, run_date, run_key)
    if catalog is None or not rows:
        return
    try:
        # pyiceberg is slow to import.
        from tasks.warehouse.replace import open_warehouse, record_runs

        record_runs(open_warehouse(catalog, run_log.store.uri), rows, check_owner=run_log.refresh)
    except Exception as error:  # noqa: BLE001 - drivers raise their own types, and a run must not end by this
        log.warning("failed attempts are not in batch_runs yet (%s)", type(error).__name__)
