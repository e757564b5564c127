"""Answers of two sides to the same requests: equal exactly, when normalised, as JSON, or by a scorer."""

from __future__ import annotations

import json
import string
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Scorer: TypeAlias = Callable[[str, str], float]

GROUP: Final = "nightblend.scorers"
_NO_SIGNS: Final = str.maketrans("", "", string.punctuation)
_NOT_JSON: Final = object()


def load_scorer(name: str | None) -> Scorer | None:
    """Return the function of an entry point ``package.module:function``; None for none.

    Raises
    ------
    ConfigurationError
        If there is no such function.
    """
    if name is None:
        return None
    try:
        found = EntryPoint("scorer", name, GROUP).load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            "--canary-scorer",
            f"{name!r} cannot be loaded ({type(error).__name__})",
            "Give package.module:function",
        ) from None
    if not callable(found):
        raise ConfigurationError(
            "--canary-scorer", f"{name!r} is no function", "Give package.module:function"
        )
    return found  # type: ignore[no-any-return]


def compare_answers(
    baseline: Mapping[str, str], candidate: Mapping[str, str], scorer: Scorer | None = None
) -> dict[str, Any]:
    """Compare the answers to the requests that both sides have answered, by request id.

    Returns
    -------
    dict
        `compared`, and the shares `exact`, `normalised`, `json_equal` (of those whose baseline is JSON) and
        the mean `score`; None where there is nothing to take a share of.

    Raises
    ------
    ConfigurationError
        If the scorer fails, or returns what is no number.
    """
    pairs = [(baseline[name], candidate[name]) for name in sorted(baseline.keys() & candidate.keys())]
    as_json = [(_json(one), _json(other)) for one, other in pairs]
    as_json = [pair for pair in as_json if pair[0] is not _NOT_JSON]
    return {
        "compared": len(pairs),
        "exact": _share([one == other for one, other in pairs]),
        "normalised": _share([normalised(one) == normalised(other) for one, other in pairs]),
        "json_equal": _share([other is not _NOT_JSON and one == other for one, other in as_json]),
        "score": None if scorer is None or not pairs else _score(scorer, pairs),
    }


def normalised(text: str) -> str:
    """Return a text without case, punctuation and differences of white space."""
    return " ".join(text.translate(_NO_SIGNS).casefold().split())


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return _NOT_JSON


def _share(equal: list[bool]) -> float | None:
    return sum(equal) / len(equal) if equal else None


def _score(scorer: Scorer, pairs: list[tuple[str, str]]) -> float:
    try:
        return sum(float(scorer(one, other)) for one, other in pairs) / len(pairs)
    except Exception as error:  # noqa: BLE001 - whatever a function of somebody else's raises
        # Its own words could quote an answer.
        raise ConfigurationError(
            "--canary-scorer", f"failed with {type(error).__name__}", "Correct it, or leave it out"
        ) from None
