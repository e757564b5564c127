"""Tables that are one JSON object, as pandas writes them unless it is told otherwise.

`{column: {row: value}}` (its default), `{row: {column: value}}` and `{columns: [...], data: [[...], ...]}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def frame_rows(document: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of such a table; None for any other object.

    Rows are told from columns by their labels, which are whole numbers.
    """
    if {"columns", "data"} <= document.keys() <= {"columns", "index", "data"}:
        return _of_lists(document["columns"], document["data"])
    inner = [value for value in document.values() if isinstance(value, dict)]
    if not inner or len(inner) < len(document) or any(value.keys() != inner[0].keys() for value in inner):
        return None
    outer_is_row, inner_is_row = all(map(_is_label, document)), all(map(_is_label, inner[0]))
    if outer_is_row == inner_is_row:
        return None
    if outer_is_row:
        return inner
    return [{name: column[row] for name, column in document.items()} for row in inner[0]]


def _of_lists(columns: object, data: object) -> list[dict[str, Any]] | None:
    if not isinstance(columns, list) or not isinstance(data, list):
        return None
    if not all(isinstance(name, str) for name in columns):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        return None
    return [dict(zip(columns, row, strict=True)) for row in data]


def _is_label(name: str) -> bool:
    return name.isascii() and name.isdigit()
