"""One meaning of `run_date`, for schedule, UI and backfill.

The default is a lag in *calendar days* in the site's timezone, never "minus 24 hours": days with a clock
change have 23 or 25. What belongs to a date is decided by the path of a date-templated source
(`{run_date:%Y/%m/%d}`), otherwise by event times in the local half-open day. A source with neither has no
dates of its own: everything in it belongs to the date that is given, and one must be given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tasks.base.errors import ConfigurationError

_FIELD: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ResolvedDate:
    """The date of a run and, in words, where it came from (for the log and the run's name)."""

    run_date: date
    reason: str


def parse_date(text: str, name: str = "--run-date") -> date:
    """Return a date given as 2026-11-22.

    Parameters
    ----------
    name
        What it was given as, named in the error.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(name, f"{text!r} is no date", "Give it as 2026-11-22") from None


def is_dated(source: str) -> bool:
    """Tell whether a source is templated with the run date."""
    return "{" in source


def static_prefix(source: str) -> str:
    """Return the part of a templated source before its first field."""
    return source.partition("{")[0]


def expand_source(source: str, run_date: date) -> str:
    """Put the date into a source.

    Parameters
    ----------
    source : str
        With any number of `{run_date}` (ISO) or `{run_date:<strftime format>}`, or none.

    Raises
    ------
    ConfigurationError
        For any other field, or braces that do not match.
    """

    def fill(match: re.Match[str]) -> str:
        name, _, form = match[1].partition(":")
        if name != "run_date":
            raise _bad_template(source)
        return run_date.strftime(form) if form else run_date.isoformat()

    expanded = _FIELD.sub(fill, source)
    if "{" in expanded or "}" in expanded:
        raise _bad_template(source)
    return expanded


def resolve_run_date(
    given: str | date | None,
    *,
    source: str,
    has_event_time: bool,
    now: datetime,
    timezone: str = "UTC",
    lag_days: int = 1,
    on_demand: bool = False,
) -> ResolvedDate:
    """Decide which date a run is for.

    Parameters
    ----------
    given : str, date or None
        The date asked for (`YYYY-MM-DD`); it always wins.
    source : str
        The source, templated or not.
    has_event_time : bool
        Whether rows of this source carry their time (OpenAI Batch lines do not).
    now : datetime
        Aware. A scheduled run passes its *scheduled* time, which stays the same when it is retried.
    timezone : str
        The site's, such as `Europe/Berlin`.
    lag_days : int
        Calendar days before the local date of `now`.
    on_demand : bool
        An on-demand run has no default.

    Raises
    ------
    ConfigurationError
        If a date must be given and is not, is not a date, or the timezone is not known.
    """
    zone = site_zone(timezone)
    if isinstance(given, date):
        return ResolvedDate(given.date() if isinstance(given, datetime) else given, "given")
    if given:
        try:
            return ResolvedDate(date.fromisoformat(given), "given")
        except ValueError:
            raise ConfigurationError(
                "--run-date", f"{given!r} is not a date", "Write it as YYYY-MM-DD"
            ) from None
    if on_demand:
        raise ConfigurationError("--run-date", "an on-demand run has no default date", "Give one")
    if not is_dated(source) and not has_event_time:
        raise ConfigurationError(
            "--run-date",
            f"{source} has no date in its path and its rows carry no time",
            "Give --run-date YYYY-MM-DD, or put {run_date:%Y/%m/%d} into --source",
        )
    if now.tzinfo is None:
        raise ValueError("now must be aware of its timezone")
    local = now.astimezone(zone).date()
    return ResolvedDate(
        local - timedelta(days=lag_days), f"{lag_days} calendar days before {local} {timezone}"
    )


def day_window(run_date: date, timezone: str = "UTC") -> tuple[datetime, datetime]:
    """Return the half-open local day as two instants in UTC; 23 to 25 hours apart.

    Raises
    ------
    ConfigurationError
        If the timezone is not known.
    """
    zone = site_zone(timezone)
    start = datetime.combine(run_date, time(), zone)
    end = datetime.combine(run_date + timedelta(days=1), time(), zone)
    return start.astimezone(UTC), end.astimezone(UTC)


def site_zone(timezone: str) -> ZoneInfo:
    """Return the timezone of an IANA name; raise `ConfigurationError` if it is not known."""
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            "--timezone", f"{timezone!r} is not known", "Write an IANA name such as Europe/Berlin or UTC"
        ) from None


def _bad_template(source: str) -> ConfigurationError:
    return ConfigurationError(
        "--source",
        f"{source} has a field that is not known",
        "Only {run_date} and {run_date:%Y/%m/%d} (any strftime format) are",
    )
