"""Promises as they are typed, and the time by which they are to be kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.base.errors import ConfigurationError
from tasks.night.promises import Promise, parse_promises

FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def test_as_typed() -> None:
    found = parse_promises(["acme=6:05", "beta = 30%", "a=b=23:59, 12.5 %"], "Europe/Berlin")
    berlin = {"timezone": "Europe/Berlin"}
    assert found == (
        Promise("acme", "06:05", **berlin),
        Promise("beta", None, 0.3, **berlin),
        Promise("a=b", "23:59", 0.125, **berlin),
    )
    assert [promise.told() for promise in found] == ["acme=06:05", "beta=30%", "a=b=23:59,12.5%"]
    assert parse_promises([], "UTC") == ()


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["acme"], "'acme' names no tenant"),
        (["=06:00"], "'=06:00' names no tenant"),
        (["acme="], "'' for 'acme' is no time of day and no share"),
        (["acme=24:00"], "'24:00' for 'acme' is no time of day"),
        (["acme=06:60"], "'06:60' for 'acme'"),
        (["acme=0%"], "'0%' for 'acme' is no time of day and no share up to 100 %"),
        (["acme=101%"], "'101%' for 'acme'"),
        (["acme=06:00,07:00"], "'07:00' for 'acme'"),
        (["acme=-5%"], "'-5%' for 'acme'"),
        (["acme=06:00", "acme=10%"], "'acme' is promised something twice"),
        (["a=60%", "b=41%"], "all shares are 101 %, more than the whole device"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_that_names_the_option(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as found:
        parse_promises(texts, "UTC")
    assert found.value.field == "--promise"
    assert said in str(found.value)
    assert "\n" not in str(found.value)


@given(
    st.integers(0, 4 * 365 * 24 * 60).map(lambda passed: FIRST + timedelta(minutes=passed)),
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
)
def test_it_is_the_first_such_time_after_the_run_has_begun(begun, hour: int, minute: int, zone: str) -> None:
    due = Promise("a", f"{hour:02}:{minute:02}", 0.0, zone).ready_at(begun)
    assert timedelta(0) < due - begun <= timedelta(hours=25)
    local = due.astimezone(UTC).astimezone(ZoneInfo(zone))
    # But for the hour that clocks skip, it is that time of day.
    skipped = due.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != due.replace(tzinfo=None)
    assert skipped or (local.hour, local.minute, local.second) == (hour, minute, 0)


def test_a_day_with_a_clock_change_and_no_time_at_all() -> None:
    promise = Promise("a", "06:00", 0.0, "Europe/Berlin")
    # Clocks go forward at 02:00 on 29 March 2026.
    assert promise.ready_at(datetime(2026, 3, 28, 22, tzinfo=UTC)).astimezone(UTC).hour == 4
    assert promise.ready_at(datetime(2026, 3, 27, 22, tzinfo=UTC)).astimezone(UTC).hour == 5
    assert Promise("a", None, 0.5).ready_at(datetime(2026, 3, 27, tzinfo=UTC)) is None
