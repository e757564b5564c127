"""One cause behind nearly all requests is told as one line, and only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tasks.base.errors import OF_ENGINE
from tasks.profile.causes import common_cause, most_common


def refused(code: str, message: str, field: str | None = "messages") -> dict[str, Any]:
    return {"code": code, "field": field, "message": message}


LONG = [
    refused("context_length_exceeded", f"{n} prompt tokens + 1 do not fit the context length of 512")
    for n in range(600, 619)
]
BARE = [refused("template_error", "the tokenizer has no chat template")] * 19


@pytest.mark.parametrize(("rows", "remedy"), [(LONG, "a longer context"), (BARE, "chat_template.jinja")])
def test_nearly_all_for_one_cause(rows: list[dict[str, Any]], remedy: str) -> None:
    found = [refused("empty_prompt", "the prompt has no tokens"), *rows]
    said = most_common(found, 20, 0.9)
    assert said is not None
    assert said.startswith("19 of 20 requests cannot be answered for one cause")
    assert f"(messages: {rows[0]['message']})" in said
    assert remedy in said
    assert "\n" not in said
    assert most_common(found, 22, 0.9) is None, "three of them have an answer"
    assert most_common(found, 20, 0.95) is None
    assert most_common(rows, 19, 1.0) is None, "so it was asked for"
    assert most_common([], 20, 0.9) is None


def test_what_nearly_all_are_refused_for_by_their_engine() -> None:
    message = f"{OF_ENGINE} (some server 1) does not honour this setting"
    said = most_common([refused("unsupported_parameter", message, "seed")] * 20, 20, 0.9)
    assert said is not None
    assert f"(seed: {message}). Name an engine that honours it" in said


def test_two_causes_are_not_one() -> None:
    assert most_common([*LONG[:10], *BARE[:10]], 20, 0.9) is None


def test_what_is_refused_while_parsing_is_no_matter_of_the_model() -> None:
    assert most_common([refused("unsupported_parameter", "not supported", "tools")] * 20, 20, 0.9) is None


@pytest.mark.parametrize(
    "code",
    [
        "template_error",
        "context_length_exceeded",
        "invalid_token",
        "missing_parameter",
        "empty_prompt",
        "invalid_image",
        "not_replayable",
    ],
)
def test_every_code_of_this_step_has_a_remedy(code: str) -> None:
    said = most_common([refused(code, "m", None)] * 10, 10, 0.9)
    assert said is not None
    assert said.partition(f"for one cause, {code} (m). ")[2]


@pytest.mark.parametrize(
    ("requests", "limit", "told"), [(19, 0.2, True), (19, 1.0, False), (10, 0.2, True), (9, 0.2, False)]
)
def test_a_few_bad_rows_are_results_like_any_other(requests: int, limit: float, told: bool) -> None:
    account = {"requests": requests, "lines": requests}
    steps = {
        "extract": SimpleNamespace(results={"account": account}),
        "tokenize": SimpleNamespace(results={"refused": requests}),
    }
    night: Any = SimpleNamespace(
        log=SimpleNamespace(state=SimpleNamespace(steps=steps)),
        settings=SimpleNamespace(abort_quarantined_fraction=limit),
        read_table=lambda *_: pa.Table.from_pylist(LONG[:requests]),
    )
    assert (common_cause(night) is not None) == told
