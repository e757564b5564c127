"""One cause behind nearly all requests is told as one line, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.profile.causes import Causes, as_results, common_cause


def refused(code: str, message: str, field: str | None = "messages") -> dict[str, Any]:
    return {"code": code, "field": field, "message": message}


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    causes = Causes()
    for row in rows:
        causes.add([row])
    return {"causes": as_results(causes.most())}


LONG = [
    refused("context_length_exceeded", f"{n} prompt tokens + 1 do not fit the context length of 512")
    for n in range(600, 619)
]
BARE = [refused("template_error", "the tokenizer has no chat template")] * 19


@pytest.mark.parametrize(("rows", "remedy"), [(LONG, "a longer context"), (BARE, "chat_template.jinja")])
def test_nearly_all_for_one_cause(rows: list[dict[str, Any]], remedy: str) -> None:
    found = results(refused("empty_prompt", "the prompt has no tokens"), *rows)
    said = common_cause(found, 20, 0.2)
    assert said is not None
    assert said.startswith("19 of 20 requests cannot be answered for one cause")
    assert rows[0]["message"] in said
    assert remedy in said
    assert "\n" not in said
    assert common_cause(found, 22, 0.2) is None, "three of them have an answer"
    assert common_cause(found, 20, 1.0) is None, "so it was asked for"
    assert common_cause(found, 20, 0.99) is None
    assert common_cause(results(*rows[:9]), 9, 0.2) is None, "a few bad rows are results like any other"
    assert common_cause({}, 20, 0.2) is None, "a step that an earlier version recorded"
    assert common_cause(results(), 20, 0.2) is None


def test_two_causes_are_not_one() -> None:
    assert common_cause(results(*LONG[:10], *BARE[:10]), 20, 0.2) is None


@pytest.mark.parametrize(
    "code",
    [
        "template_error",
        "context_length_exceeded",
        "invalid_token",
        "missing_parameter",
        "empty_prompt",
        "not_replayable",
    ],
)
def test_every_code_of_this_step_has_a_remedy(code: str) -> None:
    said = common_cause(results(*[refused(code, "m", None)] * 10), 10, 0.2)
    assert said is not None
    assert said.partition(f"for one cause, {code} (m). ")[2]
