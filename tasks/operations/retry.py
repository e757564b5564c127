"""What a night was asked for whose failures are to be answered again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.base.errors import ConfigurationError
from tasks.operations.dates import LEASE_S
from tasks.operations.publications import attempt_of
from tasks.publish.current import date_log
from tasks.runlog.state import current_publication

if TYPE_CHECKING:
    from datetime import date

    from tasks.runlog.records import Published
    from tasks.store.contract import Store


def published_options(store: Store, job: str, run_date: date) -> tuple[Published, list[str]]:
    """Return the current publication of a date, and the options of the night that made it.

    Raises
    ------
    ConfigurationError
        If nothing is published for the date, or it is no longer known what was asked for.
    """
    current = current_publication(date_log(store, job, run_date, lease_s=LEASE_S).refresh())
    if current is None:
        raise ConfigurationError(
            "--run-date", f"nothing is published for {job} on {run_date}", "Run that night first"
        )
    attempt = attempt_of(store, job, run_date, current)
    options = list(attempt.params.get("options", ())) if attempt is not None else []
    if not options:
        raise ConfigurationError(
            "--run-date",
            f"it is not known any more how {run_date} was run",
            "Give all options of that night to `nightblend run --failed-only`",
        )
    return current, options
