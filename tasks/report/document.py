"""A document of facts, text, tables and figures, and its two forms: a self-contained HTML page, and markdown.

Texts are plain: what looks like markup in them is shown as it is. The page loads nothing from anywhere. Its
HTML is in `templates/`: a macro for each kind of block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Facts:
    """Key figures, large: (what, value, remark)."""

    kind: ClassVar = "facts"
    facts: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes
    ----------
    caption
        What is in it, and whether it is measured, modelled or simulated.
    words
        So many columns from the left hold words and are aligned left, the others right.

    Raises
    ------
    ValueError
        If a row has more or fewer cells than there are columns.
    """

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of {self.caption!r} has not {len(self.columns)} cells")


@dataclass(frozen=True)
class Figure:
    """A plot: inline SVG (`tasks.report.plots.svg`), a caption, and what it shows for who cannot see it."""

    kind: ClassVar = "figure"
    svg: str
    caption: str
    description: str


Block: TypeAlias = Text | Facts | Table | Figure
"""The `kind` of a block is the name of its macro in the templates."""


@dataclass(frozen=True)
class Section:
    """A part of a document under a title of its own."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A title with a line below it, and sections."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def to_html(document: Document) -> str:
    """Return the document as one HTML page with everything in it."""
    return _templates().get_template("document.html.j2").render(document=document)


def to_markdown(document: Document) -> str:
    """Return the document as markdown; a figure is its caption, with the description of what it shows."""
    lines = [f"# {_line(document.title)}", "", _line(document.subtitle), ""]
    for section in document.sections:
        lines += [f"## {_line(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown(block), ""]
    return "\n".join(lines).rstrip() + "\n"


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("tasks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _markdown(block: Block) -> list[str]:
    match block:
        case Text(text):
            return [_line(text)]
        case Facts(facts):
            return _markdown_table(("", "", ""), facts)
        case Table(caption, columns, rows, words):
            return [_line(caption), "", *_markdown_table(columns, rows, words)]
        case Figure(_, caption, description):
            return [f"*{_line(caption)}* {_line(description)}"]


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    head = [_line(name) or " " for name in columns]
    ends = ["---" if i < words else "---:" for i in range(len(columns))]
    return [f"| {' | '.join(row)} |" for row in (head, ends, *([_line(c) for c in row] for row in rows))]


def _line(text: str) -> str:
    """Return a text in which nothing is markup, on one line."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
