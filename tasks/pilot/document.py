"""A pilot as a page for who decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.estimate.words import ORDERS, money
from tasks.pilot.words import COLUMNS, UNKNOWN, duration, headline, notes, order_rows
from tasks.report.document import Document, Facts, Figure, Section, Table, Text
from tasks.report.plots import BLACK, BLUE, SKY, drawing, svg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.report.document import Block

TENANTS = 30
"""Rows of the table of workloads and tenants at most, the largest first."""


def document(found: Mapping[str, Any], source: str, model: str) -> Document:
    """Return the page of a pilot (`tasks.pilot.pilot.pilot`).

    Parameters
    ----------
    source, model
        As people call them.
    """
    subtitle = f"{found['run_date']}: {found['requests']:,} requests of {source}, answered by {model}"
    answer: list[Block] = [Text(headline(found)), Facts(_tiles(found)), _picture(found)]
    table = Table("Measured on the sample; the whole night from it", COLUMNS, order_rows(found))
    return Document(
        "What a pilot says of the whole night",
        subtitle,
        [
            Section("The decision", answer),
            Section("Both orders", [table]),
            Section("What was answered", [_strata(found), _lengths(found)]),
            Section("What this rests on", [Text(text) for text in notes(found)]),
        ],
    )


def _tiles(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    today, ours = found["orders"]
    saving = found["saving"]
    tiles = [
        ("decision", found["decision"], ""),
        ("less time", f"{saving['central']:.0%}", f"{saving['low']:.0%} to {saving['high']:.0%}"),
        (
            "the whole night",
            duration(ours["seconds"]["central"]),
            f"today {duration(today['seconds']['central'])}",
        ),
        (
            "tokens/s",
            f"{ours['tokens_per_second']:,.0f}",
            f"today {today['tokens_per_second']:,.0f}",
        ),
    ]
    if ours["cost"] is not None:
        tiles.append(
            (
                "a night costs",
                f"{money(ours['cost'])} {found['currency']}",
                f"today {money(today['cost'])} {found['currency']}",
            )
        )
    return tiles


def _picture(found: Mapping[str, Any]) -> Figure:
    rows, told = found["orders"], found["estimate"]
    unit, size = _unit(max(row["seconds"]["high"] for row in rows))
    with drawing(1.9) as figure:
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            central, low, high = (row["seconds"][name] / size for name in ("central", "low", "high"))
            color = BLUE if place else SKY
            axes.barh([place], [central], height=0.5, color=color, edgecolor=BLACK, linewidth=0.6)
            axes.errorbar(
                [central], [place], xerr=[[central - low], [high - central]], color=BLACK, capsize=5
            )
            if told is not None:
                label = "as estimated" if place == 0 else None
                at = told["seconds"][row["order"]]["central"] / size
                axes.plot([at], [place], "D", color="white", markeredgecolor=BLACK, label=label)
        axes.set_yticks(np.arange(len(rows)), [ORDERS[row["order"]] for row in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{unit} for the whole night")
        if told is not None:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0))
        picture = svg(figure)
    said = "; ".join(f"{ORDERS[row['order']]}: {duration(row['seconds']['central'])}" for row in rows)
    return Figure(picture, "The whole night in each order, with bounds (from the measured sample)", said)


def _unit(seconds: float) -> tuple[str, float]:
    if seconds >= 7200.0:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 120.0 else ("seconds", 1.0)


def _strata(found: Mapping[str, Any]) -> Table:
    rows = sorted(found["strata"], key=lambda row: -int(row["requests"]))
    shown = [
        (
            row["workload"],
            row["tenant"] or UNKNOWN,
            f"{row['requests']:,}",
            f"{row['sampled']:,}",
            f"{row['sampled'] / row['requests']:.0%}",
        )
        for row in rows[:TENANTS]
    ]
    rest = rows[TENANTS:]
    if rest:
        requests, sampled = (sum(int(row[name]) for row in rest) for name in ("requests", "sampled"))
        shown.append(
            (f"{len(rest):,} more", UNKNOWN, f"{requests:,}", f"{sampled:,}", f"{sampled / requests:.0%}")
        )
    columns = ("workload", "tenant", "requests", "sampled", "share")
    return Table("The sample, beside the whole date", columns, shown, words=2)


def _lengths(found: Mapping[str, Any]) -> Table:
    rows = [
        (
            row["workload"],
            row["others_from"],
            f"{row['sampled']:,}",
            *(
                UNKNOWN if row[name] is None else f"{row[name]:,.1f}"
                for name in ("logged_mean", "measured_mean")
            ),
        )
        for row in found["lengths"]
    ]
    columns = ("workload", "lengths of the others", "answers sampled", "mean tokens logged", "mean answered")
    return Table("Lengths of answers", columns, rows, words=2)
