"""Earlier runs of a job: those that are published, by their dates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tasks.runlog.log import RunLog, date_prefix, run_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.store.contract import Store

_FIRST: Final = "/log/00000000.json"


@dataclass(frozen=True, slots=True)
class PastRun:
    """A published run: its date (2026-11-22), its key, and its log, read to the end."""

    run_date: str
    run_key: str
    log: RunLog


def published_runs(store: Store, job: str, before: str | None = None) -> Iterator[PastRun]:
    """Yield the run that is current of each date of a job, latest first, of dates before `before`."""
    folder = date_prefix(job, before or "").rpartition("/")[0]
    keys = [info.key.removesuffix(_FIRST) for info in store.list(f"{folder}/") if info.key.endswith(_FIRST)]
    limit = None if before is None else date_prefix(job, before)
    for prefix in sorted((key for key in keys if limit is None or key < limit), reverse=True):
        published = current_publication(RunLog(store, prefix).refresh())
        if published is None or not published.run_key:
            continue
        run_date = prefix.rpartition("run_date=")[2]
        log = RunLog(store, run_prefix(job, run_date, published.run_key))
        log.refresh()
        yield PastRun(run_date, published.run_key, log)
