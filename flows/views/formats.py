"""What logs are taken for, as a person reads it."""

from __future__ import annotations

from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SURE: Final = {
    "sure": "sure",
    "likely": "likely: {alike} of the first {looked_at} records are of it",
    "unsure": "not sure: {alike} of the first {looked_at} records are of it",
    "unknown": "no known format",
    "given": "as it was given",
}


def print_formats(known: Sequence[Mapping[str, str]]) -> None:
    """Print names and titles of formats."""
    table = Table(box=None, pad_edge=False)
    table.add_column("--format")
    table.add_column("what it is")
    for row in known:
        table.add_row(row["name"], row["title"])
    table.add_row("generic", "Rows of any table, with --columns")
    _console().print(table)


def print_examination(found: dict[str, Any]) -> None:
    """Print `tasks.extract.examine.Examination`, as JSON has it."""
    console = _console()
    for look in found["objects"]:
        _print_look(console, look)
    if found["of"] > len(found["objects"]):
        console.print(f"... and {found['of'] - len(found['objects']):,} more objects")
    places = [look["uri"] for look in found["objects"]]
    folder = commonprefix(places).rpartition("/")[0] + "/"  # noqa: RUF071 - cut at a slash
    account = found["account"]
    console.print("")
    told = ", ".join(f"{account[name]:,} {name}" for name in ("quarantined", "filtered", "blank"))
    errors = f" ({_counted(account['errors'], 'error')} among them)" if account["errors"] else ""
    requests = _counted(account["requests"], "request")
    console.print(f"{_counted(account['lines'], 'line')}: {requests}{errors}, {told}")
    if found["lengths_only"]:
        only = _counted(found["lengths_only"], "request")
        console.print(f"{only} without a text, with lengths alone: for plan and estimate only")
    if found["first_time"] is not None:
        rest = f"; {found['without_time']:,} do not tell" if found["without_time"] else ""
        console.print(f"made from {found['first_time']} to {found['last_time']}{rest}")
    if found["reasons"]:
        console.print("")
        table = Table(box=None, pad_edge=False)
        for name in ("becomes", "records", "why", "first"):
            table.add_column(name, justify="right" if name == "records" else "left", overflow="fold")
        for reason in found["reasons"]:
            where = f"{reason['field']}: " if reason["field"] else ""
            why = f"{where}{reason['message']}" + (
                "" if reason["becomes"] == "filtered" else f" ({reason['code']})"
            )
            first = (reason["first"] or "").removeprefix(folder)
            table.add_row(reason["becomes"], f"{reason['count']:,}", why, first)
        console.print(table)
    console.print("")
    console.print(f"A run would answer {_counted(found['answerable'], 'request')}.")


def _print_look(console: Console, look: dict[str, Any]) -> None:
    sure = _SURE[look["how_sure"]].format(alike=look["alike"], looked_at=look["looked_at"])
    read_as = "read as " if look["how_sure"] == "unknown" else ""
    console.print(
        f"{look['uri']}: {read_as}{look['title']} ({look['format']}), {sure}; made of {look['made_of']}"
    )
    if look["also"]:
        console.print(f"  could also be: {', '.join(look['also'])}; --format decides")
    if look["remark"]:
        console.print(f"  {look['remark']}")
    elif look["fields"]:
        console.print(f"  fields: {', '.join(look['fields'])}")
    if look["unreadable"]:
        console.print(f"  unreadable from some place on: {look['unreadable']}")


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _console() -> Console:
    # Text of others may hold what rich takes for markup.
    return Console(highlight=False, markup=False, soft_wrap=True)
