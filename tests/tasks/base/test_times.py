from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base import times
from tasks.base.times import elapsed, parse_time

T = datetime(2026, 11, 30, 1, 0, tzinfo=UTC)
MS, US = T.replace(microsecond=123000), T.replace(microsecond=123456)
MIDNIGHT = T.replace(hour=0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # DuckDB, PostgreSQL, pandas, Polars, BigQuery, Trino.
        ("2026-11-30 01:00:00.123456+00", US),
        ("2026-11-30 06:30:00+05:30", T),
        ("2026-11-29 20:00:00-0500", T),
        ("2026-11-30T01:00:00.123456000", US),
        ("2026-11-30 01:00:00.123456 UTC", US),
        ("2026-11-30 02:00:00.000 Europe/Berlin", T),
        # Hosts and libraries.
        ("2026-11-30T01:00:00.123456789Z", US),
        ("2026-11-30t01:00:00,123z", MS),
        ("2026-11-30T01:00Z", T),
        ("2026-11-30 01:00", T),
        ("2026-11-30", MIDNIGHT),
        ("2026/11/30 01:00:00", T),
        ("20261130T010000Z", T),
        ("20261130T0100", T),
        ("20261130", MIDNIGHT),
        ("20261130010000", T),
        # Go, Java, .NET, MongoDB.
        ("2026-11-30 01:00:00 +0000 UTC", T),
        ("2026-11-30 02:00:00.123456789 +0100 CET m=+0.012345678", US),
        ("2026-11-30T02:00:00.123+01:00[Europe/Berlin]", MS),
        ("2026-11-30T01:00:00Z[UTC]", T),
        ("/Date(1796000400123)/", MS),
        ("/Date(1796000400123+0100)/", MS),
        ({"$date": "2026-11-30T01:00:00.123Z"}, MS),
        ({"$date": {"$numberLong": "1796000400123"}}, MS),
        # Months by name.
        ("Mon, 30 Nov 2026 01:00:00 GMT", T),
        ("Mon, 30 Nov 2026 02:00:00 +0100", T),
        ("30/Nov/2026:02:00:00 +0100", T),
        ("[30/Nov/2026:01:00:00 +0000]", T),
        ("Mon Nov 30 01:00:00 2026", T),
        ("Mon Nov 30 01:00:00 UTC 2026", T),
        ("Mon Nov 30 2026 02:00:00 GMT+0100 (Central European Standard Time)", T),
        # Numbers.
        (1796000400, T),
        (1796000400.123456, US),
        ("1796000400.123456", US),
        ("1.7960004E9", T),
        (1796000400123, MS),
        (1796000400123.0, MS),
        ("1796000400123", MS),
        (1796000400123456, US),
        (1796000400123456789, US),
        ("1796000400123456789", US),
        (20261130, MIDNIGHT),
        (20261130010000, T),
        (datetime(2026, 11, 30, 2, tzinfo=timezone(timedelta(hours=1))), T),
        (datetime(2026, 11, 30, 1), T),  # noqa: DTZ001 - what a table without zones holds
    ],
)
def test_what_common_writers_produce(value: object, expected: datetime) -> None:
    found = parse_time(value)
    assert found == expected
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "yesterday",
        "NaN",
        "inf",
        "2026-13-01",
        "2026-02-30",
        "2026-11-30 25:00",
        "2026-11-30 01",
        "2026-11-3",
        # These mean two things.
        "11/30/2026 01:00:00",
        "2026-11-30 01:00:00 PM",
        "2026-11-30 01:00:00 PST",
        "2026-11-30 01:00:00 CET",
        "2026-11-30 01:00:00 Nowhere/Land",
        "Mon, 30 Foo 2026 01:00:00 GMT",
        "Mon, x",
        "0001-01-01T00:00:00+14:00",
        "9" * 50,
        "1_796_000_400",
        # Of no year from 2001 to 2100 in any unit.
        0,
        -1796000400,
        5.5,
        123456789,
        12345678901,
        10**14,
        1e300,
        float("nan"),
        float("-inf"),
        10**400,
        True,
        [],
        [1796000400],
        {},
        {"$date": {"$date": 1796000400}},
        b"2026-11-30",
    ],
)
def test_what_is_no_time(value: object) -> None:
    assert parse_time(value) is None


MOMENTS = st.datetimes(
    datetime(2001, 1, 1),  # noqa: DTZ001
    datetime(2100, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@settings(deadline=None)
@given(MOMENTS, st.integers(0, 999), st.booleans())
def test_the_size_of_a_number_tells_its_unit(moment: datetime, nano: int, as_text: bool) -> None:
    micro = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    whole = {10**6: 1, 10**3: 10**3, 1: 10**6}
    for step, per_second in whole.items():
        number = micro // step
        expected = moment - timedelta(microseconds=micro % step)
        assert parse_time(str(number) if as_text else number) == expected, per_second
    ns = micro * 1000 + nano
    assert parse_time(str(ns) if as_text else ns) == moment


@settings(deadline=None)
@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_python_writes_what_is_read(moment: datetime, minutes: int) -> None:
    local = moment.astimezone(timezone(timedelta(minutes=minutes)))
    for text in (str(local), local.isoformat(), local.strftime("%Y%m%dT%H%M%S.%f%z")):
        assert parse_time(text) == moment
    assert parse_time(local.strftime("%a, %d %b %Y %H:%M:%S %z")) == moment.replace(microsecond=0)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text: str) -> None:
    found = parse_time(text)
    assert found is None or found.tzinfo is UTC


@given(
    st.datetimes(),
    st.sampled_from(["T", " "]),
    st.integers(0, 6),
    st.sampled_from(["", "Z", "+02:00", "-11:30", "+23:59", "+24:00", "-99:99"]),
    st.sampled_from([0, 0, 0, 19, 17, 14, 11, 8, 5]),
)
def test_the_commonest_form_is_read_as_all_others_are(
    moment: datetime, between: str, digits: int, zone: str, spoilt: int
) -> None:
    """It has a way of its own, which is quicker."""
    text = moment.isoformat(between, "microseconds")
    text = text[: 20 + digits] if digits else text[:19]
    if spoilt:
        text = text[: spoilt - 1] + "9" + text[spoilt:]
    found = parse_time(text + zone)
    assert found == times._of_groups(times._ISO, text + zone)
    assert found is None or found.tzinfo is UTC


@given(
    st.one_of(
        st.floats(978_307_000, 4_133_981_000),
        st.floats(),
        st.sampled_from([978_307_200.0, 978_307_199.999999, 4_133_980_800.0, 4_133_980_799.9999995]),
    )
)
def test_seconds_are_read_as_numbers_of_any_unit_are(number: float) -> None:
    """They have a way of their own, which is quicker."""
    assert parse_time(number) == times._of_number(number)


@given(st.floats(978_307_000, 4_134_000_000), st.floats(978_307_000, 4_134_000_000))
def test_elapsed_is_the_difference_of_the_instants(start: float, end: float) -> None:
    found = elapsed(start, end)
    begun, ended = parse_time(start), parse_time(end)
    if begun is None or ended is None or ended < begun:
        assert found is None
    else:
        assert found == (ended - begun).total_seconds()


@pytest.mark.parametrize("value", [None, 0.0, 5.0, "1790000000.5", 1_790_000_000, True, float("nan")])
def test_elapsed_leaves_everything_else_to_the_instants(value: object) -> None:
    assert elapsed(value, 1_790_000_000.5) is None
    assert elapsed(1_790_000_000.5, value) is None
