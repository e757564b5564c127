"""Fields of a form that are given by keyword."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from flows.parameters.form import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

FormT = TypeVar("FormT", bound=Form)


def filled(form: type[FormT], given: FormT | None, fields: Mapping[str, object]) -> FormT:
    """Return a form with the fields that are given; a path may stand for its text.

    Parameters
    ----------
    given
        What holds where `fields` say nothing. Of what is given so, defaults stay defaults.

    Raises
    ------
    ConfigurationError
        If a field is missing, wrong or not known.
    """
    typed = {name: str(value) if isinstance(value, PurePath) else value for name, value in fields.items()}
    if given is None:
        return form.parse(typed)
    if not typed:
        return given
    return type(given).parse({**given.model_dump(exclude_unset=True), **typed})
