"""Makes a publication the current one of its date: the tables of the warehouse first, then the date's log.

The record in the log is the commit. The log is held for it, so of two publishers of a date one waits.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tasks.base.errors import ConfigurationError
from tasks.base.schema import SCHEMAS
from tasks.runlog.log import RunIsLiveError, RunLog
from tasks.runlog.places import date_prefix, publication_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from tasks.runlog.records import Published
    from tasks.runlog.state import RunState
    from tasks.store.contract import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Publication:
    """What a run published, or is about to; `results` are those of step `publish`."""

    id: str
    job: str
    run_date: date
    run_key: str
    attempt_id: str
    results: dict[str, Any]


def date_log(
    store: Store, job: str, run_date: date, *, lease_s: float, heartbeat_s: float | None = None
) -> RunLog:
    """Return the log of a date, whose last `published` record points to the current publication."""
    prefix = date_prefix(job, run_date.isoformat())
    return RunLog(store, prefix, lease_s=lease_s, heartbeat_s=heartbeat_s or lease_s / 4)


def make_current(
    store: Store,
    publication: Publication,
    *,
    catalog: str | None,
    lease_s: float,
    heartbeat_s: float,
    check: Callable[[RunState], object] | None = None,
) -> None:
    """Point the date's tables and log to a publication, as far as they do not already.

    Parameters
    ----------
    catalog
        URI of the Iceberg catalog; None leaves tables alone.
    check
        Raises if this publication may no longer be made current, given the state of the date's log. Called as
        its holder.

    Raises
    ------
    RunIsLiveError
        If another process holds the date's log for longer than two leases.
    StaleWriterError
        If another process has taken the date's log over.
    StoreUnavailableError
        If the store fails, or the catalog: some tables may be replaced then, and the log is as it was.
    """
    held = date_log(store, publication.job, publication.run_date, lease_s=lease_s, heartbeat_s=heartbeat_s)
    # Another publisher holds the log for one publication, so waiting for it is short or it is dead.
    deadline = time.monotonic() + 2 * lease_s
    while True:
        try:
            with held.hold(wait=True, params={"run_key": publication.run_key}):
                state = held.refresh()
                if check is not None:
                    check(state)
                current = current_publication(state)
                if catalog is not None:
                    _replace_tables(store, publication, catalog, held)
                if current is not None and current.publication_id == publication.id:
                    log.info("publication %s is the current one already", publication.id)
                    return
                held.publish(
                    publication.id,
                    run_key=publication.run_key,
                    attempt_id=publication.attempt_id,
                    details=publication.results,
                )
        except RunIsLiveError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            log.info("published %s for %s", publication.id, publication.run_date)
            return


def roll_back(
    store: Store,
    job: str,
    run_date: date,
    *,
    to: str | None = None,
    as_of: datetime | None = None,
    catalog: str | None = None,
    lease_s: float = 90.0,
) -> Publication:
    """Make an earlier publication of a date the current one again.

    Parameters
    ----------
    to
        Its id; None takes the one before the current one.
    as_of
        Aware. Without `to`: the one that was current then, which may be the current one.
    catalog
        URI of the Iceberg catalog; None leaves tables alone.

    Returns
    -------
    Publication
        The current one now.

    Raises
    ------
    ConfigurationError
        If there is no such publication, or it has no files for tables.
    """
    state = date_log(store, job, run_date, lease_s=lease_s).refresh()
    where = f"{job} on {run_date.isoformat()}"
    if to is None and as_of is not None:
        chosen = _current_then(state, as_of, where)
    else:
        chosen = _choose(state.publications, to, where)
    if catalog is not None and "tables" not in chosen.details:
        raise ConfigurationError(
            "--catalog",
            f"publication {chosen.publication_id} was made without tables",
            "Give --catalog none to roll the files back, or run that night again",
        )
    if not store.exists(f"{publication_prefix(job, run_date, chosen.publication_id)}/summary.json"):
        raise ConfigurationError(
            "--to" if to else "--run-date",
            f"the files of publication {chosen.publication_id} are gone (nightblend gc)",
            "Choose a later one with --to, or run that night again",
        )
    found = Publication(
        chosen.publication_id, job, run_date, chosen.run_key, chosen.attempt_id, chosen.details
    )
    make_current(store, found, catalog=catalog, lease_s=lease_s, heartbeat_s=lease_s / 4)
    return found


def _current_then(state: RunState, as_of: datetime, where: str) -> Published:
    made = zip(state.published_at, state.publications, strict=True)
    found = [entry for at, entry in made if datetime.fromisoformat(at) <= as_of]
    if not found:
        raise ConfigurationError(
            "--as-of",
            f"nothing of {where} was published at {as_of.isoformat()}",
            "Name a later time, or a publication with --to",
        )
    return found[-1]


def _choose(known: Sequence[Published], to: str | None, where: str) -> Published:
    if not known:
        raise ConfigurationError("--run-date", f"nothing was published for {where}", "Name another date")
    names = list(dict.fromkeys(entry.publication_id for entry in known))
    current = known[-1].publication_id
    if to is None:
        others = [entry for entry in known if entry.publication_id != current]
        if not others:
            raise ConfigurationError(
                "--run-date",
                f"{current} is the only publication of {where}",
                "There is nothing to go back to",
            )
        return others[-1]
    for entry in reversed(known):
        if entry.publication_id == to:
            return entry
    raise ConfigurationError("--to", f"{to!r} was not published for {where}", f"Choose of {', '.join(names)}")


def _replace_tables(store: Store, publication: Publication, catalog: str, held: RunLog) -> None:
    # pyiceberg is slow to import.
    from tasks.warehouse.catalogs import catalog_errors
    from tasks.warehouse.replace import open_warehouse, replace_tables

    results = publication.results
    run = {name: results[name] for name in SCHEMAS["batch_runs"].names if name in results}
    run |= {
        "job": publication.job,
        "run_date": publication.run_date,
        "run_key": publication.run_key,
        "attempt_id": publication.attempt_id,
        "publication_id": publication.id,
    }
    if "ended_at" in run:
        run["ended_at"] = datetime.fromisoformat(run["ended_at"])
    with catalog_errors(catalog):
        replace_tables(
            open_warehouse(catalog, store.uri),
            publication.job,
            publication.run_date,
            results["tables"],
            publication_id=publication.id,
            run=run,
            check_owner=held.refresh,
        )
