"""What somebody may have meant by a word that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST: Final = 3
_LEAST: Final = 2
"""Letters that a beginning has."""


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return `did you mean A?` or `did you mean A, B or C?`; None if no known word is like it.

    A word that known ones begin with means those: nothing may be shortened, so this has to be told.
    """
    # Where nothing is misspelt it is not needed.
    from difflib import get_close_matches

    words = list(known)
    longer = [one for one in words if one.startswith(word)] if len(word.strip("-")) >= _LEAST else []
    found = longer[:_MOST] or get_close_matches(word, words, 1)
    if not found:
        return None
    listed = " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    return f"did you mean {listed}?"
