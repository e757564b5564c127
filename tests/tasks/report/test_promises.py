"""What a report says of promises to tenants."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.report.document import Table, Text
from tasks.report.promises import promise_text, promises

ROW: dict[str, Any] = {
    "tenant": "acme",
    "ready_by": "2026-03-28T07:00:00+01:00",
    "share": 0.125,
    "requests": 1200,
    "answered": 1200,
    "in_time": 1200,
    "late": 0,
    "late_by_s": None,
    "kept": 1.0,
    "last_answer_at": "2026-03-28T03:12:00+00:00",
    "share_received": 0.4,
    "at_risk_at": None,
    "expected_at": None,
}
LATE = {"late": 200, "in_time": 1000, "kept": 1000 / 1200, "late_by_s": 9000.0}


def test_a_promise_that_was_kept() -> None:
    (table,) = promises([ROW])
    assert isinstance(table, Table)
    promised = "by 2026-03-28 06:00 and 12.5 % of the device"
    assert table.rows == [["acme", promised, "100 %", "1,200 of 1,200", "0", "03:12", "40 %"]]
    assert promise_text(ROW) == f"acme: kept 100 % (1,200 of 1,200), ready 03:12, promised {promised}"


def test_one_that_was_not_with_the_alarm_before_it() -> None:
    seen = {"at_risk_at": "2026-03-28T01:30:00+00:00", "expected_at": "2026-03-28T08:20:00+00:00"}
    late = ROW | LATE | seen | {"last_answer_at": "2026-03-28T08:30:00+00:00"}
    table, text = promises([late])
    assert isinstance(table, Table)
    assert table.rows[0][2:6] == ["83.3 %", "1,000 of 1,200", "200, by 2 h 30 min", "08:30"]
    assert text == Text("At 01:30 the requests of acme were expected at 08:20, after the promised time.")
    assert "kept 83.3 % (1,000 of 1,200), 200 late, the last by 2 h 30 min" in promise_text(late)


@pytest.mark.parametrize(
    ("changed", "cell"),
    [
        # Nearly all is not all.
        ({"in_time": 99_999, "requests": 100_000, "kept": 0.99999, "late": 1, "late_by_s": 20.0}, "99.9 %"),
        ({"requests": 1201, "kept": 1200 / 1201}, "1,200 of 1,201, 1 without an answer"),
        ({"last_answer_at": "2026-03-27T23:50:00+00:00"}, "2026-03-27 23:50"),
        ({"ready_by": None, "last_answer_at": "2026-03-27T23:50:00+00:00"}, "12.5 % of the device"),
        ({"requests": 0, "answered": 0, "last_answer_at": None, "share_received": None}, "no requests"),
    ],
)
def test_what_else_there_is(changed: dict[str, Any], cell: str) -> None:
    (table, *_) = promises([ROW | changed])
    assert isinstance(table, Table)
    assert cell in table.rows[0]


def test_without_promises_there_is_no_section() -> None:
    assert promises([]) == []
    assert promise_text(ROW | {"requests": 0}) == "acme: no request of this tenant"
