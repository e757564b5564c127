"""The section on several replicas: what each had in hand over time, what it did, and when it was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.report import night_plots
from tasks.report.document import Table, Text
from tasks.report.night_plots import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.report.document import Block
    from tasks.report.night_data import NightData

HOUR_S: Final = 3600.0
MOST_ROWS: Final = 64


def replicas(night: NightData) -> list[Block]:
    """Return the blocks of the section; none of a night with one replica."""
    rows = night.replicas
    if len(rows) < 2:
        return []
    price = night.summary.get("gpu_hour_price")
    columns = [
        *("replica", "steps", "prompt tokens", "answer tokens", "hit rate", "in steps", "tail"),
        "held, s",
        *(["cost"] if price is not None else []),
    ]
    left = f" {len(rows) - MOST_ROWS:,} more are in summary.json." if len(rows) > MOST_ROWS else ""
    about = (
        "By replica. Tokens are those that it computed; hit rate: part of its prompt tokens that came from "
        "its prefix cache; tail: from its last step to the end of the slowest; held: as long as its engines "
        f"lived, loading included. Measured.{left}"
    )
    cells = [_row(row, price, night.summary.get("currency")) for row in rows[:MOST_ROWS]]
    return [
        Text(_in_words(rows)),
        *([night_plots.lanes(night.lanes)] if night.lanes is not None else []),
        Table(about, columns, cells),
    ]


def _row(row: dict[str, Any], price: float | None, currency: str | None) -> tuple[str, ...]:
    held = row["gpu_seconds_held"]
    cost = "-" if price is None or held is None else f"{held / HOUR_S * price:,.4f} {currency}"
    return (
        str(row["replica"]),
        *(f"{row[name]:,}" for name in ("steps", "prefill_tokens", "decode_tokens")),
        "-" if row["hit_rate"] is None else f"{row['hit_rate']:.1%}",
        duration(row["engine_seconds"]),
        duration(row["tail_seconds"]),
        "-" if held is None else f"{held:,.1f}",
        *([cost] if price is not None else []),
    )


def _in_words(rows: Sequence[dict[str, Any]]) -> str:
    """Return how well the replicas ended together."""
    busy = sum(row["engine_seconds"] for row in rows)
    tails = [row["tail_seconds"] for row in rows]
    lost = sum(tails)
    first = max(rows, key=lambda row: row["tail_seconds"])
    share = lost / (busy + lost) if busy + lost > 0 else 0.0
    if share < 0.001:
        return f"{len(rows)} replicas shared the requests and ended together."
    return (
        f"{len(rows)} replicas shared the requests. Replica {first['replica']} had nothing more to do "
        f"{duration(first['tail_seconds'])} before the slowest ended; the tails of all are {duration(lost)}, "
        f"{share:.1%} of the time in steps and tails."
    )
