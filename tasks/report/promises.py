"""The section of a report about what tenants were promised, and its words for everybody else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tasks.report.document import Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.report.document import Block

COLUMNS: Final = ("tenant", "promised", "kept", "in time", "late", "last answer", "share received")
UNKNOWN: Final = "-"


def promises(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return what was promised and kept, from rows of table `promises`; nothing without any."""
    if not rows:
        return []
    about = (
        "Times are UTC, of the answers; the date was published when all of them were there. The share is "
        "of the tokens of all answers until the tenant's last one."
    )
    blocks: list[Block] = [Table(about, COLUMNS, [_cells(row) for row in rows], words=2)]
    blocks += [Text(text) for row in rows if (text := _warned(row))]
    return blocks


def promise_text(row: Mapping[str, Any]) -> str:
    """Return in a line whether a promise was kept: `acme: kept 100 % (30 of 30), ready 03:12, ...`."""
    if not row["requests"]:
        return f"{row['tenant']}: no request of this tenant"
    said = f"{row['tenant']}: kept {_percent(row['kept'])} ({row['in_time']:,} of {row['requests']:,})"
    if row["late"]:
        said += f", {row['late']:,} late, the last by {_lasted(row['late_by_s'])}"
    if row["last_answer_at"]:
        said += f", ready {_clock(row['last_answer_at'], row['ready_by'])}"
    promised = _promised(row)
    return f"{said}, promised {promised}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    late = f"{row['late']:,}, by {_lasted(row['late_by_s'])}" if row["late"] else "0"
    missing = row["requests"] - row["answered"]
    in_time = f"{row['in_time']:,} of {row['requests']:,}"
    return [
        row["tenant"],
        _promised(row),
        _percent(row["kept"]) if row["requests"] else "no requests",
        f"{in_time}, {missing:,} without an answer" if missing else in_time,
        late if row["ready_by"] else UNKNOWN,
        _clock(row["last_answer_at"], row["ready_by"]) if row["last_answer_at"] else UNKNOWN,
        f"{100 * row['share_received']:.0f} %" if row["share_received"] is not None else UNKNOWN,
    ]


def _warned(row: Mapping[str, Any]) -> str:
    if row["at_risk_at"] is None:
        return ""
    return (
        f"At {_clock(row['at_risk_at'], row['ready_by'])} the requests of {row['tenant']} were expected at "
        f"{_clock(row['expected_at'], row['ready_by'])}, after the promised time."
    )


def _promised(row: Mapping[str, Any]) -> str:
    ready_by = f"by {_at(row['ready_by']):%Y-%m-%d %H:%M}" if row["ready_by"] else None
    share = f"{100 * row['share']:g} % of the device" if row["share"] else None
    return " and ".join(filter(None, (ready_by, share)))


def _percent(part: float) -> str:
    # What is not whole is not told as whole.
    return "100 %" if part == 1.0 else f"{min(99.9, 100 * part):.1f} %"


def _lasted(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _clock(text: str, beside: str | None) -> str:
    """Return a time of day, with the day where it is another one than that of `beside`."""
    at = _at(text)
    same = beside is not None and at.date() == _at(beside).date()
    return f"{at:%H:%M}" if same else f"{at:%Y-%m-%d %H:%M}"
