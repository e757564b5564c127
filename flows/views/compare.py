"""What a person sees of `nightblend compare`: what is being measured, then the table, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flows.views.estimate import WIDTH
from tasks.compare.document import COLUMNS, cells, words

if TYPE_CHECKING:
    from tasks.compare.variants import Variant


def tell_run(number: int, variant: Variant) -> None:
    """Say on stderr what is measured now."""
    Console(stderr=True, highlight=False).print(f"round {number + 1}: {variant.engine}, {variant.policy}")


def print_comparison(found: dict[str, Any], currency: str) -> None:
    """Print a comparison (`tasks.compare.compare.compare`)."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        # A file or a pipe has no width that tables would have to fit.
        console.width = WIDTH
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if place < 2 else "right")
    for row in found["rows"]:
        table.add_row(*cells(found, row, currency))
    console.print(words(found))
    console.print()
    console.print(table)
