"""A document of facts, text, tables and figures, and its two forms: a self-contained HTML page, and markdown.

Texts are plain: what looks like markup in them is shown as it is. The page loads nothing from anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Key figures, large: (what, value, remark)."""

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
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True)
class Figure:
    """A plot: inline SVG (`tasks.report.plots.svg`), a caption, and what it shows for who cannot see it."""

    svg: str
    caption: str
    description: str


Block: TypeAlias = Text | Facts | Table | Figure


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
    body = [
        f"<header><h1>{escape(document.title)}</h1><p>{escape(document.subtitle)}</p></header>",
        *(_html_section(section) for section in document.sections),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def to_markdown(document: Document) -> str:
    """Return the document as markdown; a figure is its caption, with the description of what it shows."""
    lines = [f"# {_line(document.title)}", "", _line(document.subtitle), ""]
    for section in document.sections:
        lines += [f"## {_line(section.title)}", ""]
        for block in section.blocks:
            lines += [*_markdown(block), ""]
    return "\n".join(lines).rstrip() + "\n"


@cache
def _style() -> str:
    return Path(__file__).with_name("style.css").read_text()


def _html_section(section: Section) -> str:
    blocks = "\n".join(_html(block) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>"


def _html(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>"
        case Facts(facts):
            tiles = "".join(
                f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd>"
                f"{f'<dd class=remark>{escape(remark)}</dd>' if remark else ''}</div>"
                for what, value, remark in facts
            )
            return f"<dl>{tiles}</dl>"
        case Table(caption, columns, rows, words):
            sides = ["<t{} class=word>" if i < words else "<t{}>" for i in range(len(columns))]
            head = "".join(
                f"{side.format('h')}{escape(name)}</th>" for side, name in zip(sides, columns, strict=True)
            )
            body = "\n".join(
                "<tr>"
                + "".join(f"{side.format('d')}{escape(c)}</td>" for side, c in zip(sides, row, strict=True))
                + "</tr>"
                for row in rows
            )
            return (
                f'<div class="table"><table><caption>{escape(caption)}</caption>'
                f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
            )
        case Figure(svg, caption, description):
            return (
                f'<figure><div role="img" aria-label="{escape(description, quote=True)}">{svg}</div>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
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
