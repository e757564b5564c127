"""Why requests were refused while their prompts were made, and whether one cause stands behind nearly all."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tasks.base.accounting import Account
from tasks.base.bad_rows import NEARLY_ALL
from tasks.base.errors import OF_ENGINE, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.night.night import Night

FEWEST: Final = 10
"""Of so many requests at least: a few bad ones are results like any other."""
_NUMBER: Final = re.compile(r"\d+")
_REMEDIES: Final = {
    ErrorCode.TEMPLATE_ERROR: "Give the model's folder the chat template that such chats need "
    "(chat_template.jinja), or name a model that has it",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "Name a model with a longer context",
    ErrorCode.INVALID_TOKEN: "Give the model's folder the tokenizer files that belong to its weights",
    ErrorCode.MISSING_PARAMETER: "Let the requests say it",
    ErrorCode.EMPTY_PROMPT: "Name logs with prompts",
    ErrorCode.INVALID_IMAGE: "Send images of sizes that the processor of the model takes",
    ErrorCode.NOT_REPLAYABLE: "Name logs with prompts",
}
"""For each code that step `tokenize` refuses requests with, whatever the engine."""
_REMEDY_OF_ENGINE: Final = "Name an engine that honours it, or leave it out of the requests"


def common_cause(night: Night) -> str | None:
    """Say what nearly all requests of a run were refused for, and the remedy; None if there is no such cause.

    It is looked for after step `tokenize`. A run whose `abort_quarantined_fraction` is 1 has none.
    """
    steps = night.log.state.steps
    requests = Account(**steps["extract"].results["account"]).requests
    share = max(night.settings.abort_quarantined_fraction, NEARLY_ALL)
    if requests < FEWEST or steps["tokenize"].results["refused"] <= share * requests:
        return None
    rows = night.read_table("errors", ["code", "field", "message"]).to_pylist()
    return most_common(rows, requests, share)


def most_common(rows: Iterable[Mapping[str, Any]], requests: int, share: float) -> str | None:
    """Say what more than a `share` of `requests` were refused for; None if it is not one cause.

    Messages of one cause differ in numbers at most, such as the place of a message or the tokens of a prompt;
    the first one stands for all.

    Parameters
    ----------
    rows
        Of the table errors: `code, field, message`.
    """
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        cause = row["code"], _NUMBER.sub("#", row["message"])
        counts[cause] += 1
        first.setdefault(cause, ": ".join(text for text in (row["field"], row["message"]) if text))
    for cause, count in counts.most_common(1):
        remedy = _REMEDIES.get(ErrorCode(cause[0]))
        if cause[1].startswith(OF_ENGINE):
            remedy = _REMEDY_OF_ENGINE
        if count > share * requests and remedy is not None:
            return (
                f"{count} of {requests} requests cannot be answered for one cause, {cause[0]} "
                f"({first[cause]}). {remedy}"
            )
    return None
