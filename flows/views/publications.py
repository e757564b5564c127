"""What people see of the publications of dates."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.operations.publications import PublicationView


_WIDTH: Final = 110
"""Columns of the table, which is not cut where a terminal is narrower."""
_DATE: Final = "--run-date"


def print_publications(found: Sequence[PublicationView]) -> None:
    """Print a row per publication, and below them what their nights were given."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not found:
        console.print("Nothing was published.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("date", "publication", "", "published (UTC)", "release", "engine", "policy"):
        table.add_column(name, no_wrap=True)
    for name in ("answers", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    asked: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        table.add_row(
            one.run_date.isoformat(),
            one.publication_id,
            "current" if one.current else "" if one.files else "files gone",
            one.published_at[:16].replace("T", " "),
            one.release or "?",
            " ".join(part for part in (one.engine, one.engine_version) if part) or "?",
            one.policy or "?",
            "?" if one.outputs is None else f"{one.outputs:,}",
            "?" if one.errors is None else f"{one.errors:,}",
        )
        asked.setdefault(_without_date(one.options), []).append(one.publication_id)
    Console(highlight=False, markup=False, width=max(console.width, _WIDTH)).print(table)
    for options, names in asked.items():
        if options:
            console.print(f"\n{', '.join(names)}:\n    nightblend run {shlex.join(options)}")


def _without_date(options: Sequence[str]) -> tuple[str, ...]:
    places = {n + k for n, word in enumerate(options) if word == _DATE for k in (0, 1)}
    return tuple(word for n, word in enumerate(options) if n not in places)
