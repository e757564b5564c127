"""What a person sees of `nightblend estimate`: the answer, then the tables, on stdout."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tasks.estimate.words import facts, headline, tables_of, vanishing

WIDTH: Final = 140


def print_estimate(result: dict[str, Any]) -> None:
    """Print an estimate (`tasks.estimate.estimate.estimate`)."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        # A file or a pipe has no width that tables would have to fit.
        console.width = WIDTH
    for machine in result["machines"]:
        console.print(headline(result, machine), style="bold")
        for text in machine["verdict"]["reasons"]:
            console.print(f"  {text}")
    for name, reason in result["refused"].items():
        console.print(f"{name}: left out. {reason}")
    console.print()
    for name, value in facts(result):
        console.print(f"{name:<20}{value}")
    for machine in result["machines"]:
        for title, columns, rows in tables_of(machine):
            named = f"{machine['machine']}: {title}"
            table = Table(title=named, title_justify="left", box=None, pad_edge=False)
            for name in columns:
                table.add_column(name, justify="left" if name in _TEXT else "right")
            for row in rows:
                table.add_row(*row)
            console.print()
            console.print(table)
        for text in vanishing(machine):
            console.print(text)
    console.print("\nWhat this rests on")
    for text in result["assumptions"]:
        console.print(f"- {text}")


_TEXT = {"order", "part", "what", "workload", "is", "assumption", "changed to", "figures"}


def print_trust(result: dict[str, Any]) -> None:
    """Print the errors of past runs (`tasks.estimate.trust.past_errors`)."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(
        title=f"{result['job']}: measured against planned, latest run first",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    columns = ("date", "policy", "device", "planned s", "measured s", "total", "step time", "p95", "lengths")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < 3 else "right")
    notes = []
    for run in result["runs"]:
        total, steps, lengths = run["total"], run["steps"], run["lengths"]
        table.add_row(
            run["run_date"],
            run["policy"] or "-",
            run["device"] or "-",
            f"{total['planned']:.1f}" if total else "-",
            f"{total['actual']:.1f}" if total else "-",
            f"{total['error']:+.1%}" if total else "-",
            f"{steps['p50']:.1%}" if steps else "-",
            f"{steps['p95']:.1%}" if steps else "-",
            f"{lengths['error']:+.1%}" if lengths else "-",
        )
        if run["why"]:
            notes.append(f"{run['run_date']} does not count: {run['why']}.")
    console.print(table)
    console.print(
        "total and lengths: measured over planned, less 1; step time and p95: absolute error of one step, "
        "median and 95th percentile."
    )
    for note in notes:
        console.print(note)
