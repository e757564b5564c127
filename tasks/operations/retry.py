"""What a night was asked for whose failures are to be answered again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.base.errors import ConfigurationError
from tasks.publish.current import date_log
from tasks.runlog.log import RunLog
from tasks.runlog.places import run_prefix
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from datetime import date

    from tasks.runlog.records import Published
    from tasks.store.contract import Store

_LEASE_S = 90.0


def published_options(store: Store, job: str, run_date: date) -> tuple[Published, list[str]]:
    """Return the current publication of a date, and the options of the night that made it.

    Raises
    ------
    ConfigurationError
        If nothing is published for the date, or it is no longer known what was asked for.
    """
    current = current_publication(date_log(store, job, run_date, lease_s=_LEASE_S).refresh())
    if current is None:
        raise ConfigurationError(
            "--run-date", f"nothing is published for {job} on {run_date}", "Run that night first"
        )
    state = RunLog(store, run_prefix(job, run_date.isoformat(), current.run_key)).refresh()
    made = [attempt for attempt in state.attempts if attempt.id == current.attempt_id]
    options = list(made[-1].params.get("options", ())) if made else []
    if not options:
        raise ConfigurationError(
            "--run-date",
            f"it is not known any more how {run_date} was run",
            "Give all options of that night to `nightblend run --failed-only`",
        )
    return current, options
