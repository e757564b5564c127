"""What a person sees of rows that got no answer, and of an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.base.accounting import ExitCode
from tasks.store.contract import plain_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_CODES: Final = 5
MEANING: Final[Mapping[int, str]] = {
    ExitCode.OK: "bad rows are within the limit",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "a setting is wrong",
    ExitCode.COMPLETED_WITH_ERRORS: "published, with more bad rows than allowed",
    ExitCode.STOPPED: "stopped, can go on",
    ExitCode.OTHER_OWNER: "another run owns the date",
}


def exit_code_text(code: int) -> str:
    """Return an exit code with its meaning."""
    return f"{code} ({MEANING[code]})" if code in MEANING else str(code)


def bad_rows_text(rows: Iterable[Mapping[str, Any]], kind: str) -> str:
    """Return the codes of a kind, each with its count and the place of a row; '' without any.

    Parameters
    ----------
    rows
        As `tasks.base.bad_rows.count_bad_rows` returns them.
    """
    mine = [row for row in rows if row["kind"] == kind]
    told = [
        f"{row['count']:,} {row['code']}, first at {plain_path(str(row['source_uri']))}:{row['source_line']}"
        for row in mine[:MOST_CODES]
    ]
    more = len(mine) - len(told)
    return "; ".join(told) + (f"; {more} more codes" if more else "")
