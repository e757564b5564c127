"""The constraint that holds an answer to calls of tools, made for the form of the run's model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from engine.grammar.calls import calls_constraint
from tasks.base.errors import ErrorCode, RequestError
from tasks.requests.tools import CHOICE, PARALLEL, TOOLS, is_enforced, parameters_of
from tasks.tools.forms import FORMS, NAME, OWN, ToolForm

if TYPE_CHECKING:
    from collections.abc import Mapping


def calls_of(settings: Mapping[str, Any], form: ToolForm, added: Mapping[str, int]) -> str | None:
    """Return the constraint that a request's tools ask for; None: its answer is free.

    That is a call where `tool_choice` requires one. Where it does not, the answer is text or calls, and it is
    constrained only if a function is `strict` or two calls in one answer are not wanted.

    Parameters
    ----------
    settings
        Of `tasks.requests.tools`.
    form
        How the model writes calls.
    added
        Ids of the tokens that were added to the vocabulary, by their texts: these are not made of others.

    Raises
    ------
    RequestError
        `unsupported_parameter`, if calls of this form cannot be enforced.
    """
    tools, choice = json.loads(settings[TOOLS]), settings.get(CHOICE)
    one = settings.get(PARALLEL) is False
    strict = any(is_enforced(tool, None) for tool in tools)
    if choice is None and not strict and (not one or form.between is None):
        return None
    if form.name == OWN:
        field = CHOICE if choice is not None else PARALLEL if one else f"{TOOLS}.function.strict"
        message = "calls as this model writes them cannot be enforced; only auto is supported"
        raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, field, message)
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["function"]["name"] == choice["name"]]
    known = FORMS[form.name]
    return calls_constraint(
        text=None if choice is not None else "first" if known.begins else "marker",
        marker=known.marker,
        begin=_pieces(form.begin, added),
        between=None if one or form.between is None else _pieces(form.between, added),
        end=_pieces(form.end, added),
        separators=(form.comma, form.colon),
        calls=[
            (
                _pieces(_named(form.before, tool), added),
                parameters_of(tool["function"]) if is_enforced(tool, choice) else {"type": "object"},
                _pieces(_named(form.after, tool), added),
            )
            for tool in tools
        ],
    )


def _named(text: str, tool: Mapping[str, Any]) -> str:
    return text.replace(NAME, json.dumps(tool["function"]["name"], ensure_ascii=False)[1:-1])


def _pieces(text: str, added: Mapping[str, int]) -> list[str | int]:
    """Return a text cut at the added tokens in it, which are given by their ids."""
    found: list[str | int] = [text] if text else []
    for name, token in added.items():
        cut: list[str | int] = []
        for piece in found:
            if isinstance(piece, int) or name not in piece:
                cut.append(piece)
                continue
            for number, part in enumerate(piece.split(name)):
                cut += [token] if number else []
                cut += [part] if part else []
        found = cut
    return found
