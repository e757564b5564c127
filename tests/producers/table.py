"""The table of formats, tools and versions in docs/log-formats.md, made of what the tests have compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.producers.logs import Log

DOCUMENT = ROOT / "docs" / "log-formats.md"
BEGIN = "<!-- begin: make test-producers WRITE=1 -->\n"
END = "<!-- end -->\n"
_HEAD = """| tool | versions | logs | format | calls compared | what it leaves out |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Compared:
    """A log whose calls were compared.

    Attributes
    ----------
    log
        Which one.
    versions
        Of the packages that wrote it.
    calls
        How many calls it was compared with.
    """

    log: Log
    versions: Mapping[str, str]
    calls: int


def render(compared: Sequence[Compared]) -> str:
    """Return the table: a row for each tool, format and list of what is left out."""
    rows: dict[tuple[str, str, str, str], list[Compared]] = {}
    for one in compared:
        versions = ", ".join(f"{name} {one.versions[name]}" for name in one.log.packages)
        rows.setdefault((one.log.tool, versions, one.log.format, _left_out(one.log)), []).append(one)
    lines = [
        f"| {tool} | {versions} | {'; '.join(one.log.form for one in logs)} | `{name}` "
        f"| {sum(one.calls for one in logs)} | {left} |\n"
        for (tool, versions, name, left), logs in rows.items()
    ]
    return _HEAD + "".join(lines)


def _left_out(log: Log) -> str:
    fields = [f"`{name}`" for name in log.leaves_out if log.leaves_out[name] is None]
    fields += [f"`{name}` at its usual value" for name, where in log.leaves_out.items() if where is not None]
    return ", ".join([*fields, *log.notes, *(["cached tokens"] if log.cached is False else [])])


def parts(text: str) -> tuple[str, str, str]:
    """Return a document before its table, the table, and after it."""
    before, _, rest = text.partition(BEGIN)
    table, found, after = rest.partition(END)
    assert found, f"{DOCUMENT.name} has no markers for the table"
    return before + BEGIN, table, END + after
