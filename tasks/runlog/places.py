"""Where run logs are kept, by job, date and run key, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tasks.store.contract import check_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from tasks.store.contract import Store

_FIRST_RECORD: Final = "/log/00000000.json"
"""Exists as soon as the log does."""


def run_prefix(job: str, run_date: str, run_key: str) -> str:
    """Return the prefix of a run directory."""
    return check_key(f"{job}/runs/run_date={run_date}/{run_key}")


def date_prefix(job: str, run_date: str) -> str:
    """Return the prefix of the log that fences the publication of a date."""
    return check_key(f"{job}/dates/run_date={run_date}")


def publication_prefix(job: str, run_date: date | str, publication_id: str) -> str:
    """Return the prefix of the files of a publication."""
    return check_key(f"{job}/published/run_date={run_date}/{publication_id}")


def logs_below(store: Store, folder: str) -> Iterator[str]:
    """Yield the prefixes of the logs right below or deeper in a folder of the store, sorted."""
    for info in store.list(f"{folder}/"):
        if info.key.endswith(_FIRST_RECORD):
            yield info.key.removesuffix(_FIRST_RECORD)
