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
