"""A night as the options of `nightblend run` that ask for it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flows.parameters.form import option

if TYPE_CHECKING:
    from datetime import date

    from flows.parameters.nightly import NightlyParameters

_ONCE: Final = frozenset({"run_date", "rerun", "take_over", "give_way", "catch_up_days"})
"""Fields that are about how one run came to be, not about what it computes."""


def night_options(parameters: NightlyParameters, run_date: date) -> tuple[str, ...]:
    """Return the options that ask for a night again, with its date given and defaults left out."""
    given = parameters.model_dump(mode="json", exclude_defaults=True, exclude=set(_ONCE))
    typed: list[str] = []
    for name, value in {**given, "run_date": run_date.isoformat()}.items():
        if isinstance(value, bool):
            typed.append(option(name) if value else option(f"no_{name}"))
        else:
            for one in value if isinstance(value, list) else [value]:
                typed += [option(name), str(one)]
    return tuple(typed)
