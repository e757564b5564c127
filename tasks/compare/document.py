"""A comparison as a table of text, and as a page in the style of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.choices import NATIVE
from tasks.report.document import Document, Section, Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: Final = (
    *("engine", "order", "tokens/s", "against first", "hit rate", "preemptions", "mixed steps"),
    *("peak memory", "equal answers", "cost per million tokens"),
)
UNKNOWN: Final = "-"
"""Stands for what an engine does not tell."""
_GIB: Final = 1 << 30


def cells(found: Mapping[str, Any], row: Mapping[str, Any], currency: str) -> list[str]:
    """Return a row of a comparison (`tasks.compare.compare.compare`) as text, in the order of `COLUMNS`."""
    first = found["rows"][0]["tokens_per_second"]
    speed, cost = row["tokens_per_second"], row["cost_per_million_tokens"]
    peak, preemptions = row["peak_bytes"], row["preemptions"]
    return [
        # Of our own engine the version is a number that says nothing to people.
        row["engine"] if row["engine"] == NATIVE else f"{row['engine']}: {row['version']}",
        row["order"],
        f"{speed:,.0f}",
        f"{speed / first:.2f}" if first else UNKNOWN,
        _share(row["hit_rate"]),
        UNKNOWN if preemptions is None else f"{preemptions:,.0f}",
        _share(row["mixed_steps"]),
        UNKNOWN if peak is None else f"{peak / _GIB:,.2f} GiB",
        _share(row["equal_answers"]),
        UNKNOWN if cost is None else f"{cost:,.4f} {currency}",
    ]


def words(found: Mapping[str, Any]) -> str:
    """Return in a sentence what was measured."""
    said = (
        f"{found['requests']:,} requests with {found['prompt_tokens']:,} prompt tokens; medians of "
        f"{found['rounds']} alternating rounds, from the loaded model to the last answer."
    )
    if found["refused"]:
        said += f" Left out, since one of the engines cannot answer them: {found['refused']:,}."
    return said


def document(found: Mapping[str, Any], title: str, currency: str) -> Document:
    """Return the comparison as a page."""
    rows = [cells(found, row, currency) for row in found["rows"]]
    table = Table("Measured", COLUMNS, rows, words=2)
    meaning = (
        "tokens/s counts prompt and answer tokens. Equal answers is the share of answers that are those of "
        "the first row, token by token where the engine gives tokens. A mixed step computes prompts and "
        f"answers side by side. {UNKNOWN} is what an engine does not tell."
    )
    return Document(title, words(found), [Section("Engines and orders", [table, Text(meaning)])])


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"
