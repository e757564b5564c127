"""Why requests were refused while their prompts were made, and whether one cause stands behind nearly all."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NEARLY_ALL: Final = 0.9
"""Share of a run's requests above which one cause stops it."""
FEWEST: Final = 10
"""Of so many requests at least: a few bad ones are results like any other."""
_KEPT: Final = 5
_NUMBER: Final = re.compile(r"\d+")
_REMEDIES: Final = {
    ErrorCode.TEMPLATE_ERROR: "Give the model's folder the chat template that such chats need "
    "(chat_template.jinja), or name a model that has it",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "Name a model with a longer context",
    ErrorCode.INVALID_TOKEN: "Give the model's folder the tokenizer files that belong to its weights",
    ErrorCode.MISSING_PARAMETER: "Let the requests say it",
    ErrorCode.EMPTY_PROMPT: "Name logs with prompts",
    ErrorCode.NOT_REPLAYABLE: "Name logs with prompts",
}
"""For each code that step `tokenize` refuses requests with."""


@dataclass(slots=True)
class Cause:
    """What some requests were refused for.

    Attributes
    ----------
    code, field, message
        Of the first of them; the others differ in numbers at most, such as the place of a message.
    count
        How many they are.
    """

    code: str
    field: str | None
    message: str
    count: int = 0


class Causes:
    """Counts refused requests by cause."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Cause] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of the table errors."""
        for row in rows:
            key = row["code"], _NUMBER.sub("#", row["message"])
            cause = self._found.setdefault(key, Cause(row["code"], row["field"], row["message"]))
            cause.count += 1

    def most(self) -> list[Cause]:
        """Return the most frequent causes, most frequent first."""
        return sorted(self._found.values(), key=lambda cause: -cause.count)[:_KEPT]


def as_results(causes: Iterable[Cause]) -> list[dict[str, Any]]:
    """Return causes as the results of a step hold them."""
    return [asdict(cause) for cause in causes]


def common_cause(results: Mapping[str, Any], requests: int, limit: float) -> str | None:
    """Say what nearly all requests of a run were refused for, and the remedy; None if there is no such cause.

    Parameters
    ----------
    results
        Of step `tokenize`.
    requests
        All of the run, those refused while parsing included.
    limit
        A share of `requests`; `NEARLY_ALL` counts if it is higher. 1 finds nothing.
    """
    # Step records of earlier versions have no causes.
    for found in results.get("causes", ())[:1]:
        cause = Cause(**found)
        if requests >= FEWEST and cause.count > max(limit, NEARLY_ALL) * requests:
            where = f"{cause.field}: " if cause.field else ""
            return (
                f"{cause.count} of {requests} requests cannot be answered for one cause, {cause.code} "
                f"({where}{cause.message}). {_REMEDIES[ErrorCode(cause.code)]}"
            )
    return None
