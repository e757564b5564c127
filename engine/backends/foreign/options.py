"""Options of other engines as they are typed: ours among them, and arguments of theirs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from engine.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTION: Final = "--engine-option"


@dataclass(frozen=True)
class ForeignOptions:
    """The options of an engine by others, as they stand in a job folder too.

    Attributes
    ----------
    scheduling
        A key of the engine's `SCHEDULING`.
    pacing
        Whether the remaining work decides how many tokens a step takes, where we schedule or simulate.
    arguments
        Of the engine itself, by their names.
    version
        What the answers depend on: distribution, its version, `arguments`; empty until it was looked at.
    on_cpu
        Whether it computes on the CPU.
    grammars
        Whether its interpreter has what constraints are made with, known once it was looked at.
    """

    scheduling: str = "auto"
    pacing: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    on_cpu: bool = False
    grammars: bool = False

    def told(self) -> dict[str, Any]:
        """Return them as a job folder has them."""
        return asdict(self)

    @classmethod
    def of_job(cls, options: dict[str, Any]) -> Self:
        """Read them from a job folder."""
        return cls(**options)

    @classmethod
    def parse(
        cls, given: Sequence[str], scheduling: Mapping[str, str], taken: Mapping[str, str], arguments: str
    ) -> Self:
        """Read options as they were typed; for what `read_options`, `take_choice` and `take_switch` raise.

        Parameters
        ----------
        scheduling
            Values of that option -> what each does.
        taken, arguments
            See `read_options`.
        """
        values = read_options(given, taken, arguments)
        chosen = take_choice(values, "scheduling", scheduling)
        pacing = take_switch(values, "pacing", default=True)
        return cls(chosen, pacing, values)


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
