"""The hours in which servers may be used: by a clock on the wall, over midnight and when clocks change."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from engine.backends.endpoint.answer import answer
from engine.backends.endpoint.hours import Hours
from engine.backends.endpoint.options import parse_options
from engine.errors import OptionError
from tests.engine.backends.endpoint.test_endpoint import items, prompts, written
from tests.servers.openai_api import openai_server

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


NIGHT = Hours.parse("22:00-06:00, 12:00-12:30", "Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "open_", "begins"),
    [
        ("2026-11-30T21:59:59", False, "2026-11-30T22:00"),
        ("2026-11-30T22:00", True, None),
        ("2026-12-01T05:59:59", True, None),
        ("2026-12-01T06:00", False, "2026-12-01T12:00"),
        ("2026-12-01T12:10", True, None),
        ("2026-12-01T12:30", False, "2026-12-01T22:00"),
        # The clock goes forward, then back, while it is not allowed, and while it is.
        ("2026-03-29T07:00", False, "2026-03-29T12:00"),
        ("2026-10-25T02:30", True, None),
    ],
)
def test_hours_are_those_of_the_time_zone(now: str, open_: bool, begins: str | None) -> None:
    assert NIGHT.are_now(at(now)) is open_
    assert NIGHT.begin_next(at(now)) == at(begins or now)


def test_a_span_that_begins_in_an_hour_that_is_left_out_begins_behind_it() -> None:
    hours = Hours.parse("02:30-05:00", "Europe/Berlin")
    begin = hours.begin_next(at("2026-03-29T01:00"))
    assert hours.are_now(begin)
    assert begin == at("2026-03-29T03:30")


def test_a_day_may_end_at_24() -> None:
    hours = Hours.parse("18:00-24:00", "UTC")
    evening = datetime(2026, 11, 30, 23, 59, tzinfo=ZoneInfo("UTC")).timestamp()
    assert hours.are_now(evening)
    assert not hours.are_now(evening + 60)


@pytest.mark.parametrize(
    "text", ["", "22-06", "25:00-06:00", "22:00-22:00", "00:00-24:00", "22:00-06:60", "x"]
)
def test_what_are_no_hours(text: str) -> None:
    with pytest.raises(OptionError, match=r"^--hours: .* is no span of hours; give HH:MM-HH:MM"):
        Hours.parse(text, "UTC")
    if text:
        with pytest.raises(OptionError, match=r"^--hours: "):
            parse_options(["url=http://a/v1"], None, text)


def test_they_go_with_the_job() -> None:
    options = parse_options(["url=http://a/v1"], 4, "22:00-06:00", "Europe/Berlin")
    again = type(options).of_job(options.as_dict())
    assert (again.hours, again.timezone, again.max_in_flight) == ("22:00-06:00", "Europe/Berlin", 4)


def test_nothing_is_sent_outside_the_hours_and_the_rest_when_they_come(tmp_path, monkeypatch) -> None:
    wanted = prompts(30)
    begin = time.time()
    clock = {"ahead": 0.0}
    monkeypatch.setattr(Hours, "are_now", lambda _, now: now + clock["ahead"] > begin + 3600)
    monkeypatch.setattr(Hours, "begin_next", lambda _, __: begin + 3600)
    with openai_server() as server:
        written(tmp_path, wanted, [server], "give_up_s=0.2", hours="22:00-06:00")
        messages: list[dict] = []

        def open_later() -> None:
            # Longer than a server may be silent: nobody was asked.
            time.sleep(1.5)
            assert server.seen.bodies == []
            clock["ahead"] = 7200.0

        later = threading.Thread(target=open_later)
        later.start()
        ended = answer(tmp_path, messages.append, threading.Event())
        later.join()
        assert ended.complete
        assert len(items(messages)) == len(server.seen.bodies) == 30
    loads = [message for message in messages if message["type"] == "load"]
    assert loads[0]["waits_until"] == begin + 3600
    assert "waits_until" not in loads[-1]
