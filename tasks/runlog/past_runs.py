"""Earlier runs of a job: those that are published, by their dates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.runlog.log import RunLog
from tasks.runlog.places import date_prefix, logs_below, run_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.store.contract import Store


@dataclass(frozen=True, slots=True)
class PastRun:
    """A published run: its date (2026-11-22), its key, and its log, read to the end."""

    run_date: str
    run_key: str
    log: RunLog


def published_runs(store: Store, job: str, before: str | None = None) -> Iterator[PastRun]:
    """Yield the run that is current of each date of a job, latest first, of dates before `before`."""
    folder = date_prefix(job, before or "").rpartition("/")[0]
    limit = None if before is None else date_prefix(job, before)
    found = (prefix for prefix in logs_below(store, folder) if limit is None or prefix < limit)
    for prefix in sorted(found, reverse=True):
        published = current_publication(RunLog(store, prefix).refresh())
        if published is None or not published.run_key:
            continue
        run_date = prefix.rpartition("run_date=")[2]
        log = RunLog(store, run_prefix(job, run_date, published.run_key))
        log.refresh()
        yield PastRun(run_date, published.run_key, log)
