from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tasks.base.errors import ConfigurationError
from tasks.base.run_date import day_window, expand_source, is_dated, resolve_run_date, static_prefix

NOW = datetime(2026, 3, 30, 0, 30, tzinfo=UTC)
DATED = "s3://logs/{run_date:%Y/%m/%d}/"


def resolve(given: object = None, source: str = DATED, **changes: object) -> date:
    settings = {"has_event_time": False, "now": NOW} | changes
    return resolve_run_date(given, source=source, **settings).run_date


def test_a_given_date_wins() -> None:
    assert resolve("2026-01-02") == date(2026, 1, 2)
    assert resolve(date(2026, 1, 2), source="plain", on_demand=True) == date(2026, 1, 2)
    assert resolve(NOW) == NOW.date()


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "02.01.2026"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--run-date"):
        resolve(text)


def test_the_lag_is_in_local_calendar_days() -> None:
    # 00:30 UTC is 02:30 in Berlin and still the evening before in New York.
    assert resolve(timezone="Europe/Berlin") == date(2026, 3, 29)
    assert resolve(timezone="America/New_York") == date(2026, 3, 28)
    # 24 hours before 00:30 on the day after the clock changed would be 23:30 two days before.
    late = datetime(2026, 3, 30, 0, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert resolve(now=late, timezone="Europe/Berlin") == date(2026, 3, 29)
    assert (late.astimezone(UTC) - timedelta(hours=24)).astimezone(late.tzinfo).date() == date(2026, 3, 28)
    assert resolve(lag_days=0) == date(2026, 3, 30)


def test_without_dates_of_its_own_a_source_needs_one() -> None:
    with pytest.raises(ConfigurationError, match="--run-date"):
        resolve(source="s3://logs/day.jsonl")
    assert resolve(source="s3://logs/day.jsonl", has_event_time=True) == date(2026, 3, 29)


def test_on_demand_has_no_default() -> None:
    with pytest.raises(ConfigurationError, match="on-demand"):
        resolve(on_demand=True)


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 7, 1), 24)])
def test_local_days_have_23_to_25_hours(day: tuple[int, int, int], hours: int) -> None:
    start, end = day_window(date(*day), "Europe/Berlin")
    assert end - start == timedelta(hours=hours)
    assert end == day_window(date(*day) + timedelta(days=1), "Europe/Berlin")[0]


def test_templates() -> None:
    day = date(2026, 3, 1)
    assert expand_source(DATED, day) == "s3://logs/2026/03/01/"
    assert expand_source("a/{run_date}.jsonl", day) == "a/2026-03-01.jsonl"
    assert expand_source("a/b", day) == "a/b"
    assert is_dated(DATED)
    assert not is_dated("a/b")
    assert static_prefix(DATED) == "s3://logs/"


@pytest.mark.parametrize("source", ["a/{date}", "a/{run_date", "a/run_date}", "{run_date.year}", "{}"])
def test_bad_templates_are_refused(source: str) -> None:
    with pytest.raises(ConfigurationError, match="--source"):
        expand_source(source, date(2026, 3, 1))


def test_unknown_timezone() -> None:
    for zone in ("Mars/Base", "../etc/passwd", ""):
        with pytest.raises(ConfigurationError, match="--timezone"):
            resolve(timezone=zone)
