"""The hours of a day in which a night may use its servers: a share of a fleet that others use by day."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self
from zoneinfo import ZoneInfo

from engine.errors import OptionError

OPTION: Final = "--hours"
_SPAN: Final = re.compile(r"([0-2]?[0-9]):([0-5][0-9])-([0-2]?[0-9]):([0-5][0-9])")
_DAY: Final = 24 * 60


@dataclass(frozen=True)
class Hours:
    """Spans of a day, by a clock on the wall.

    Attributes
    ----------
    spans
        Begin (in it) and end (not in it), in minutes of the day; one that ends before it begins goes over
        midnight.
    timezone
        Whose clock it is.
    """

    spans: tuple[tuple[int, int], ...]
    timezone: str

    @classmethod
    def parse(cls, text: str, timezone: str) -> Self:
        """Read hours as they are typed: HH:MM-HH:MM, several with commas between them.

        Raises
        ------
        OptionError
            If they are something else.
        """
        spans = []
        for one in text.split(","):
            found = _SPAN.fullmatch(one.strip())
            numbers = [int(number) for number in found.groups()] if found else [99, 0, 99, 0]
            begin, end = 60 * numbers[0] + numbers[1], 60 * numbers[2] + numbers[3]
            if begin >= _DAY or end > _DAY or begin == end % _DAY:
                raise OptionError(
                    OPTION,
                    f"{one.strip()!r} is no span of hours",
                    "give HH:MM-HH:MM, as 22:00-06:00; several with commas between them",
                )
            spans.append((begin, end))
        return cls(tuple(spans), timezone)

    def are_now(self, now: float) -> bool:
        """Tell whether the servers may be used at a Unix time."""
        local = datetime.fromtimestamp(now, ZoneInfo(self.timezone))
        minute = 60 * local.hour + local.minute
        return any(
            begin <= minute < end if begin < end else minute >= begin or minute < end
            for begin, end in self.spans
        )

    def begin_next(self, now: float) -> float:
        """Return the Unix time, not before `now`, from which the servers may be used."""
        if self.are_now(now):
            return now
        zone = ZoneInfo(self.timezone)
        today = datetime.fromtimestamp(now, zone).date()
        begins = (
            datetime(*day.timetuple()[:3], begin // 60, begin % 60, tzinfo=zone).astimezone(UTC).timestamp()
            for day in (today + timedelta(days=ahead) for ahead in (0, 1, 2))
            for begin, _ in self.spans
        )
        return min(begin for begin in begins if begin > now)
