"""Instants as logs and tables write them -> aware datetimes in UTC, to the microsecond.

Texts are read in the forms that common writers produce and that have one meaning only: days come year first,
or with the month's name. Without an offset a text is UTC, and a date alone is its midnight in UTC.

A number counts from 1970 in seconds, milliseconds, microseconds or nanoseconds. Which of them is told by its
size: the numbers that the years 2001 to 2100 have in one unit are no times of those years in another.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = 978_307_200
"""2001-01-01 in seconds since 1970."""
_END: Final = 4_133_980_800
"""2101-01-01 in seconds since 1970."""
_UNITS: Final = tuple((per, _FIRST * per, _END * per) for per in (1, 10**3, 10**6, 10**9))
"""Units of numbers: how many are a second, the first one that is a time, the first one after."""
_LONGEST_NUMBER: Final = 40

_CLOCK: Final = r"(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
# An offset or a name of UTC. Go writes an abbreviation and its monotonic clock behind it; they say nothing.
_ZONE: Final = (
    r"(?:(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)"
    r"(?:\s+(?:[A-Z]{1,5}|[+-]\d{2,4}))?(?:\s+m=[+-][\d.]+)?)?"
)
# Java and Trino name a place, behind an offset or in its stead. Abbreviations have more than one meaning.
_REGION: Final = r"(?:\[?(?P<region>[A-Z]\w*(?:/[\w+-]+)+|UTC)\]?)?"
_MONTHS: Final = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_ISO: Final = re.compile(
    r"(?P<year>\d{4})(?P<sign>[-/])(?P<month>\d\d)(?P=sign)(?P<day>\d\d)"
    rf"(?:[T ]\s*{_CLOCK}\s*{_ZONE}\s*{_REGION})?",
    re.IGNORECASE,
)
_COMMON: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
"""The commonest of those that `_ISO` has."""
_BASIC: Final = re.compile(
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
    r"(?:T?(?P<hour>\d\d)(?P<minute>\d\d)(?:(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    r"\s*(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.IGNORECASE,
)
_NAMED: Final = (
    # Web servers: 30/Nov/2026:01:00:00 +0000
    re.compile(
        rf"\[?(?P<day>\d\d)/(?P<month>[a-z]{{3}})/(?P<year>\d{{4}}):{_CLOCK}\s*{_ZONE}\]?", re.IGNORECASE
    ),
    # C: Mon Nov 30 01:00:00 2026
    re.compile(
        rf"[a-z]{{3}}\s+(?P<month>[a-z]{{3}})\s+(?P<day>\d\d?)\s+{_CLOCK}"
        r"\s+(?:(?P<zone>UTC|GMT)\s+)?(?P<year>\d{4})",
        re.IGNORECASE,
    ),
    # JavaScript: Mon Nov 30 2026 02:00:00 GMT+0100 (Central European Standard Time)
    re.compile(
        rf"[a-z]{{3}}\s+(?P<month>[a-z]{{3}})\s+(?P<day>\d\d?)\s+(?P<year>\d{{4}})\s+{_CLOCK}"
        r"\s*(?:GMT(?P<zone>[+-]\d{4}))(?:\s+\([^()]*\))?",
        re.IGNORECASE,
    ),
)
_DOTNET: Final = re.compile(r"\\?/Date\((?P<number>-?\d{1,14})(?:[+-]\d{4})?\)\\?/")


def parse_time(value: object) -> datetime | None:
    """Return the instant that a value of a log tells.

    Parameters
    ----------
    value : datetime, str, int, float, dict or anything else
        A dict is MongoDB's `{"$date": ...}`.

    Returns
    -------
    datetime or None
        In UTC; None if the value is no time.
    """
    if type(value) is float:
        if _FIRST <= value < _END:
            # Seconds, by far the commonest: the same as by the units.
            return EPOCH + timedelta(0, 0, round(value * 1e6))
        return _of_number(value)
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, datetime):
        return _in_utc(value)
    if isinstance(value, dict):
        inner = value.get("$date")
        if isinstance(inner, dict):
            inner = inner.get("$numberLong")
        return None if isinstance(inner, dict) else parse_time(inner)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _of_number(value)


def elapsed(start: object, end: object) -> float | None:
    """Return the seconds between two floats that are seconds since 1970, None for anything else.

    The same as between what `parse_time` makes of them, several times as fast; None as well if they are not
    in order.
    """
    if type(start) is not float or type(end) is not float or not _FIRST <= start < _END > end >= _FIRST:
        return None
    micro = round(end * 1e6) - round(start * 1e6)
    return micro / 10**6 if micro >= 0 else None


def _of_number(number: float) -> datetime | None:
    """Return the instant of a number, in the unit that its size tells."""
    if isinstance(number, float) and not math.isfinite(number):
        return None
    for per_second, first, end in _UNITS:
        if first <= number < end:
            # Whole numbers are cut as texts are; what a float has beyond a microsecond is rounding.
            whole = isinstance(number, int)
            micro = number * 10**6 // per_second if whole else round(number * 1e6 / per_second)
            return EPOCH + timedelta(0, 0, micro)
    return _of_groups(_BASIC, str(number)) if isinstance(number, int) else None


def _of_text(text: str) -> datetime | None:
    if _COMMON.fullmatch(text):
        # The same instants as by its groups, several times as fast.
        try:
            return _in_utc(datetime.fromisoformat(text))
        except ValueError:
            return None
    found = _of_groups(_ISO, text)
    if found is not None or not text:
        return found
    if text[0].isdigit() or text[0] in "+-.":
        number = _number(text)
        if number is not None:
            return _of_number(number)
        found = _of_groups(_BASIC, text)
    for form in _NAMED:
        found = found or _of_groups(form, text)
    return found or _of_dotnet(text) or _of_mail(text)


def _number(text: str) -> float | None:
    if len(text) > _LONGEST_NUMBER or "_" in text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _of_groups(form: re.Pattern[str], text: str) -> datetime | None:
    match = form.fullmatch(text)
    if match is None:
        return None
    found = match.groupdict()
    month = found["month"]
    if not month.isdigit():
        month = f"{_MONTHS.index(month.lower()) + 1:02d}" if month.lower() in _MONTHS else "00"
    day = f"{found['year']}-{month}-{found['day']:0>2}"
    clock = f"{found['hour'] or '00'}:{found['minute'] or '00'}:{found['second'] or '00'}"
    micro = (found["fraction"] or "")[:6].ljust(6, "0")
    zone, region = found["zone"], found.get("region")
    offset = zone if zone is not None and zone[0] in "+-" else ""
    try:
        local = datetime.fromisoformat(f"{day}T{clock}.{micro}{offset}")
        if region is not None and zone is None:
            local = local.replace(tzinfo=ZoneInfo(region))
    except (ValueError, ZoneInfoNotFoundError, OSError):
        return None
    return _in_utc(local)


def _in_utc(moment: datetime) -> datetime | None:
    """Return an instant in UTC; one without an offset is in UTC already. None beyond the years 1 to 9999."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        return None


def _of_dotnet(text: str) -> datetime | None:
    """Read the form of .NET, whose number is in milliseconds."""
    match = _DOTNET.fullmatch(text)
    return EPOCH + timedelta(milliseconds=int(match["number"])) if match else None


def _of_mail(text: str) -> datetime | None:
    """Read the form of mail and HTTP: Mon, 30 Nov 2026 01:00:00 GMT."""
    if text[3:4] != ",":
        return None
    try:
        return _in_utc(parsedate_to_datetime(text))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
