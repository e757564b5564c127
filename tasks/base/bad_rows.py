"""Rows that got no answer, counted by their codes, each with the place of one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ERROR: Final = "error"
QUARANTINE: Final = "quarantine"
NEARLY_ALL: Final = 0.9
"""A larger share of bad rows makes a night one of errors, and stops it early if they have one cause."""


def count_bad_rows(errors: Sequence[Path] = (), quarantine: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Count the rows of local Parquet files of the tables errors and quarantine by code.

    Returns
    -------
    list of dict
        ``{kind, code, count, source_uri, source_line}``, errors first, then by frequency. The place is that
        of the first such row, by name of the object and line.
    """
    found: list[dict[str, Any]] = []
    for kind, files in ((ERROR, errors), (QUARANTINE, quarantine)):
        if not files:
            continue
        place = pl.struct("source_uri", "source_line").sort().first().alias("place")
        rows = (
            pl.scan_parquet(list(files))
            .select("code", "source_uri", "source_line")
            .group_by("code")
            .agg(pl.len().alias("count"), place)
            .sort(["count", "code"], descending=[True, False])
            .collect(engine="streaming")
        )
        found += [
            {"kind": kind, "code": code, "count": count, **first} for code, count, first in rows.iter_rows()
        ]
    return found


def is_night_of_errors(requests: int, errors: int, quarantined: int) -> bool:
    """Tell whether nearly all rows are bad."""
    rows = requests + quarantined
    return rows > 0 and (errors + quarantined) / rows > NEARLY_ALL
