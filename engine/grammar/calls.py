"""Answers that are calls of tools, or may be: their constraint as a text, and the grammar made of it.

Calls are JSON between pieces that a model's own form has around them. A piece is a text, or the id of a token
that no text is made of.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Literal

from engine.grammar.schema import settled_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CALLS: Final = "calls"


def calls_constraint(
    *,
    text: Literal["first", "marker"] | None,
    marker: str,
    begin: Sequence[str | int],
    between: Sequence[str | int] | None,
    end: Sequence[str | int],
    separators: tuple[str, str],
    calls: Sequence[tuple[Sequence[str | int], Mapping[str, Any], Sequence[str | int]]],
) -> str:
    """Return a constraint as a text, for `engine.grammar.constraint.grammar`.

    Parameters
    ----------
    text
        Whether the answer may be text instead: not (None); text that does not begin as a call does (`first`);
        text that has the marker of a call nowhere, also before calls (`marker`).
    marker
        The text that tells a call from text; `begin` starts with it, or with the token that it is.
    begin, between, end
        Before the first call, between two (None: there is one alone), and after the last.
    separators
        Between values and between a key and its value.
    calls
        What a call may be: pieces before its arguments, their schema, pieces after them.
    """
    value = {
        "text": text,
        "marker": marker,
        "begin": list(begin),
        "between": None if between is None else list(between),
        "end": list(end),
        "separators": list(separators),
        "calls": [[list(before), schema, list(after)] for before, schema, after in calls],
    }
    return json.dumps({CALLS: value}, ensure_ascii=False, separators=(",", ":"))


def calls_grammar(value: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return the grammar, in Lark, of what `calls_constraint` wrote.

    Parameters
    ----------
    options
        Of JSON; the separators are those of the constraint.
    """
    comma, colon = value["separators"]
    own = {**options, "item_separator": comma, "key_separator": colon}
    rules, names = [], []
    for number, (before, schema, after) in enumerate(value["calls"]):
        settled = {**settled_schema(schema), "x-guidance": own}
        names.append(f"call_{number}")
        rules.append(f"{names[-1]}: {_line(before)} arguments_{number} {_line(after)}")
        # Each has a root of its own, so that what it refers to is found.
        rules.append(f"arguments_{number}: %json {json.dumps(settled, ensure_ascii=False)}")
    repeated = "" if value["between"] is None else f"({_line(value['between'])} call)*"
    rules.append(f"call: {' | '.join(names)}")
    rules.append(f"calls: call {repeated} {_line(value['end'])}")
    return "\n".join([*_start(value), *rules])


def _start(value: Mapping[str, Any]) -> list[str]:
    """Return the rules of the answer as a whole."""
    begin, text, told = value["begin"], value["text"], _literal(value["marker"])
    whole = f"{_line(begin)} calls"
    if text is None:
        return [f"start: {whole}"]
    if text == "first":
        return [f"start: PLAIN | {whole}", f"PLAIN: /([^{told}](.|\\n)*)?/"]
    without = f"& ~/(.|\\n)*{told}(.|\\n)*/"
    if isinstance(begin[0], int):
        return [f"start: PLAIN? | PLAIN? {whole}", f"PLAIN: /(.|\\n)+/ {without}"]
    rest = [begin[0].removeprefix(value["marker"]), *begin[1:]]
    # Up to the first end of the marker, so the text before calls has none.
    until = f"until[lazy]: /(.|\\n)*{told}/"
    return [f"start: PLAIN | until {_line(rest)} calls", f"PLAIN: /(.|\\n)*/ {without}", until]


def _line(pieces: Sequence[str | int]) -> str:
    """Return pieces as a rule has them."""
    shown = (
        f"<[{piece}]>" if isinstance(piece, int) else json.dumps(piece) for piece in pieces if piece != ""
    )
    return " ".join(shown)


def _literal(text: str) -> str:
    """Return a regular expression that matches a text alone."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)
