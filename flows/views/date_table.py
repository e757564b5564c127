"""What people see of a backfill: a row per date, on a terminal and as artifact of the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from tasks.base.accounting import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.operations.backfill import PlannedDate

COLUMNS: Final = ("date", "before", "does", "why", "input", "device time", "cost", "outcome")
WAITING: Final = "waiting"
UNDER_WAY: Final = "under way"
PUBLISHED: Final = "published"
GAVE_WAY: Final = "gave way, goes on later"
FAILED: Final = "failed"
STOPPED: Final = "stopped"


@dataclass(slots=True)
class DateEntry:
    """A date of a backfill and what came of it.

    Attributes
    ----------
    outcome
        One of the words above; '' for a date that does not run.
    note
        More about it, for people.
    """

    planned: PlannedDate
    outcome: str = ""
    note: str = ""


def entries_of(planned: Iterable[PlannedDate]) -> list[DateEntry]:
    """Return a row for each date, before anything has run."""
    return [DateEntry(found, WAITING if found.runs else "") for found in planned]


def summary_of(
    entries: Iterable[DateEntry], *, job: str, backfill_id: str, price: float | None, dry_run: bool
) -> dict[str, Any]:
    """Return the result of a backfill: counts, expected time and cost of what runs, and its dates.

    `seconds` and `cost` are None where no date's is known; `without_estimate` counts those left out of them.
    """
    rows = [
        {
            **entry.planned.as_dict(price),
            "outcome": "" if dry_run else entry.outcome,
            "note": entry.note,
        }
        for entry in entries
    ]
    running = [row for row in rows if row["runs"]]
    known = [row["seconds"] for row in running if row["seconds"] is not None]
    seconds = sum(known) if known else None
    outcomes = [row["outcome"] for row in running]
    return {
        "job": job,
        "backfill_id": backfill_id,
        "dry_run": dry_run,
        "dates": len(rows),
        "to_run": len(running),
        "published": outcomes.count(PUBLISHED),
        "failed": outcomes.count(FAILED),
        "stopped": sum(outcome in {STOPPED, GAVE_WAY} for outcome in outcomes),
        "seconds": seconds,
        "without_estimate": len(running) - len(known),
        "price_per_gpu_hour": price,
        "cost": None if seconds is None or price is None else seconds / 3600 * price,
        "exit_code": int(_exit_code(outcomes, dry_run=dry_run)),
        "rows": rows,
    }


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row of the summary, in the order of `COLUMNS`."""
    outcome = row["outcome"] + (f": {row['note']}" if row["note"] else "")
    takes = duration(row["seconds"]) if row["runs"] else ""
    cost = "" if row["cost"] is None or not row["runs"] else f"{row['cost']:,.2f}"
    does = ("again" if row["rerun"] else "run") if row["runs"] else "skip"
    size = f"{row['objects']:,} objects, {_size(row['bytes'])}" if row["objects"] else "none"
    return row["run_date"], row["status"], does, row["reason"], size, takes, cost, outcome


def headline(summary: dict[str, Any]) -> str:
    """Return the summary in one or two sentences."""
    text = f"{summary['to_run']} of {summary['dates']} dates to run"
    if summary["to_run"]:
        text += f", about {duration(summary['seconds'])} of device time"
        if summary["cost"] is not None:
            text += f", cost about {summary['cost']:,.2f}"
        if summary["seconds"] is not None and summary["without_estimate"]:
            text += f" ({summary['without_estimate']} dates without an estimate left out)"
    if not summary["dry_run"] and summary["to_run"]:
        text += (
            f". {summary['published']} published, {summary['failed']} failed, {summary['stopped']} stopped"
        )
    return text + "."


def duration(seconds: float | None) -> str:
    """Return a time for people."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table and the headline to stdout."""
    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    shown = [cells_of(row) for row in summary["rows"]]
    kept = [i for i, _ in enumerate(COLUMNS) if any(cells[i] for cells in shown)]
    for i in kept:
        table.add_column(COLUMNS[i], overflow="fold")
    for cells in shown:
        table.add_row(*(cells[i] for i in kept))
    console.print(table)
    console.print(headline(summary), soft_wrap=True)


def markdown_of(summary: dict[str, Any]) -> str:
    """Return the summary as text of an artifact."""
    title = f"# Backfill of {summary['job']}" + (" (dry run)" if summary["dry_run"] else "")
    lines = [title, "", headline(summary), ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(cells_of(row))} |" for row in summary["rows"]]
    if not summary["dry_run"]:
        lines += ["", f"To go on with it, give backfill id `{summary['backfill_id']}`."]
    return "\n".join(lines) + "\n"


def _exit_code(outcomes: list[str], *, dry_run: bool) -> ExitCode:
    if dry_run or all(outcome == PUBLISHED for outcome in outcomes):
        return ExitCode.OK
    return ExitCode.FAILED if FAILED in outcomes else ExitCode.STOPPED
