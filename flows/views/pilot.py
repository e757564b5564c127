"""What a person sees of `nightblend pilot`: what runs now, then the decision and the table, on stdout."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from flows.views.estimate import WIDTH
from tasks.estimate.words import ORDERS
from tasks.pilot.words import COLUMNS, headline, notes, order_rows


def tell_order(number: int, order: str) -> None:
    """Say on stderr what is measured now."""
    Console(stderr=True, highlight=False).print(f"round {number + 1}: {ORDERS[order]}")


def print_pilot(found: dict[str, Any]) -> None:
    """Print a pilot (`tasks.pilot.pilot.pilot`)."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        # A file or a pipe has no width that tables would have to fit.
        console.width = WIDTH
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if place else "left")
    for row in order_rows(found):
        table.add_row(*row)
    console.print(headline(found))
    console.print()
    console.print(table)
    console.print()
    for text in notes(found):
        console.print(text)
