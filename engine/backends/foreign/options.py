"""Options of other engines as they are typed: ours among them, and arguments of theirs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTION: Final = "--engine-option"


def read_options(given: Sequence[str], taken: Mapping[str, str], arguments: str) -> dict[str, Any]:
    """Read options as they were typed, KEY=VALUE; a value that is JSON is taken as such.

    Parameters
    ----------
    taken
        Arguments that a night sets itself -> the option of `run` that does; '' where none does.
    arguments
        What the engine calls its arguments, as ``vLLM's EngineArgs``.

    Raises
    ------
    OptionError
        Naming the one that is wrong. Whether the engine has an argument of that name is seen when it is
        looked at.
    """
    values: dict[str, Any] = {}
    for one in given:
        key, equals, text = one.partition("=")
        key = key.replace("-", "_")
        if not equals or not key.isidentifier():
            raise OptionError(
                OPTION, "one of them is not of the form KEY=VALUE", f"give fields of {arguments}"
            )
        name = f"{OPTION} {key}"
        if key in values:
            raise OptionError(name, "is given twice", "give it once")
        if key in taken:
            remedy = f"use {taken[key]}" if taken[key] else "leave it out"
            raise OptionError(name, "is set by the night itself", remedy)
        values[key] = _value(text)
    return values


def take_choice(values: dict[str, Any], key: str, choices: Mapping[str, str]) -> str:
    """Take an option of ours out of those that were given; the first choice is the default.

    Raises
    ------
    OptionError
        If it is none of the choices.
    """
    found = values.pop(key, next(iter(choices)))
    if found not in choices:
        raise OptionError(f"{OPTION} {key}", f"{found!r} is unknown", f"use {', '.join(choices)}")
    return str(found)


def take_switch(values: dict[str, Any], key: str, *, default: bool) -> bool:
    """Take an option of ours that is true or false out of those that were given.

    Raises
    ------
    OptionError
        If it is neither.
    """
    found = values.pop(key, default)
    if not isinstance(found, bool):
        raise OptionError(f"{OPTION} {key}", f"{found!r} is unknown", "use true or false")
    return found


def _value(text: str) -> Any:  # noqa: ANN401 - of any field
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)
