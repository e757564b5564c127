"""The date of each scheduled night, by Prefect's own schedules: none is left out, none comes twice."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.server.schemas.schedules import CronSchedule

from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from tasks.base.run_date import day_window, resolve_run_date

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Africa/Casablanca",
    "UTC",
)
GIVEN = {"job": "triage", "source": "logs/{run_date}/", "store": "store", "model": "model"}


def fires(cron: str, zone: str, start: datetime, count: int) -> list[datetime]:
    schedule = CronSchedule(cron=cron, timezone=zone)
    return [
        datetime.fromtimestamp(at.timestamp(), UTC) for at in asyncio.run(schedule.get_dates(count, start))
    ]


def run_date(at: datetime, zone: str, lag: int = 1) -> date:
    return night_request(NightlyParameters.parse(GIVEN | {"timezone": zone, "lag_days": lag}), at).run_date


@pytest.mark.parametrize("hour", ["15 0", "30 1", "0 2", "30 2", "59 2", "0 3", "30 4", "59 23"])
@pytest.mark.parametrize(("changed", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
def test_days_with_a_clock_change_in_berlin(hour, changed, hours):
    zone = "Europe/Berlin"
    start = datetime(changed.year, changed.month, changed.day, tzinfo=ZoneInfo(zone)) - timedelta(days=2)
    found = [run_date(at, zone) for at in fires(f"{hour} * * *", zone, start, 6)]
    assert found == [found[0] + timedelta(days=i) for i in range(6)]
    assert changed in found
    begin, end = day_window(changed, zone)
    assert end - begin == timedelta(hours=hours)


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    day=st.dates(date(2025, 1, 1), date(2027, 12, 1)),
    lag=st.integers(0, 3),
)
def test_a_daily_schedule_names_every_date_once(zone, minute, hour, day, lag):
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    found = [run_date(at, zone, lag) for at in fires(f"{minute} {hour} * * *", zone, start, 40)]
    missing = {found[0] + timedelta(days=i) for i in range((found[-1] - found[0]).days + 1)} - set(found)
    assert missing == set()
    assert found == sorted(set(found))


@given(
    zone=st.sampled_from(ZONES),
    seconds=st.integers(1_735_689_600, 1_830_000_000),
    lag=st.integers(0, 400),
)
def test_the_window_of_a_date_holds_the_time_it_was_named_from(zone, seconds, lag):
    now = datetime.fromtimestamp(seconds, UTC)
    day = resolve_run_date(
        None, source="{run_date}", has_event_time=False, now=now, timezone=zone, lag_days=lag
    ).run_date
    begin, end = day_window(day + timedelta(days=lag), zone)
    assert begin <= now < end
    # Half-open: the days of a site follow each other without gap or overlap.
    assert end == day_window(day + timedelta(days=lag + 1), zone)[0]
