"""Answers of other engines as messages of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.runtime.sample.settings import Sampling

LOWEST: Final = -9999.0
"""Stands for a probability of 0, whose logarithm JSON does not have."""
REASONS: Final = frozenset({"stop", "length"})
"""How an answer may end; with any other word it is none."""


def stops_of(settings: Sampling, model_stops: tuple[int, ...]) -> list[int]:
    """Return the ids of all tokens that end an answer: which they are is decided once, by us."""
    return sorted({*settings.stop_token_ids, *(() if settings.ignore_eos else model_stops)})


def grammar_of(settings: Sampling) -> str | None:
    """Return the constraint of a request as a grammar in Lark, for the library that ours are made with."""
    if settings.constraint is None:
        return None
    # It needs that library, which is there where the engine is.
    from engine.grammar.constraint import as_lark

    return as_lark(settings.constraint)


def logprob_entry(token: int, value: float, text_of: Callable[[int], bytes]) -> list[Any]:
    """Return ``[token id, bytes, log probability]`` as JSON has it.

    Parameters
    ----------
    text_of
        The bytes of a token (`engine.runtime.sample.token_text.TokenText`).
    """
    # Infinities are no JSON.
    return [int(token), text_of(int(token)).decode("latin-1"), max(float(value), LOWEST)]
