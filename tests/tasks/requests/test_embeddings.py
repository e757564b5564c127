"""What bodies for `/v1/embeddings` ask for, and what names their answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.requests.embeddings import MOST_INPUTS, inputs_of
from tasks.requests.sampling import SamplingDefaults, engine_sampling
from tests.support.parsing import Outcome, read_records


def line(given: object = "x", url: str = "/v1/embeddings", **body: Any) -> dict[str, Any]:
    return {"custom_id": "a", "url": url, "body": {"model": "e", "input": given, **body}}


def row_of(*args: Any, **body: Any) -> dict[str, Any]:
    (row,) = read_records([line(*args, **body)])
    return row


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("one", ["one"]),
        (["one"], ["one"]),
        (["one", "zwei\u2028", "[3]"], ["one", "zwei\u2028", "[3]"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["text", [4, 5]], ["text", [4, 5]]),
    ],
)
def test_inputs_of_every_form(given: object, inputs: list[Any]) -> None:
    row = row_of(given)
    assert row["endpoint"] == "embeddings"
    assert inputs_of(row) == inputs
    assert (row["messages_json"], row["token_ids"], row["settings_json"], row["max_tokens"]) == (None,) * 4


@pytest.mark.parametrize(
    "url",
    [
        "/v1/embeddings",
        "/embeddings",
        "https://api.openai.com/v1/embeddings",
        "/openai/deployments/text-embedding-3-small/embeddings?api-version=2024-10-21",
    ],
)
def test_urls(url: str) -> None:
    assert row_of(url=url)["endpoint"] == "embeddings"


def test_what_changes_an_answer_is_in_its_key_and_nothing_else() -> None:
    plain = row_of()
    same: list[dict[str, Any]] = [
        {"encoding_format": "base64"},
        {"user": "u", "metadata": {"workload": "index"}},
        {"dimensions": None, "encoding_format": "float", "priority": 0},
    ]
    assert {row_of(**body)["answer_key"] for body in same} == {plain["answer_key"]}
    others = [row_of(dimensions=8), row_of(dimensions=9), row_of("y"), row_of([1]), row_of(["x", "x"])]
    assert len({row["answer_key"] for row in (plain, *others)}) == 6
    assert row_of(dimensions=8.0)["answer_key"] == others[0]["answer_key"]
    assert json.loads(others[0]["settings_json"]) == {"dimensions": 8}
    assert json.loads(row_of(encoding_format="base64")["passthrough_json"]) == {
        "body": {"encoding_format": "base64"}
    }
    chat = {"custom_id": "a", "url": "/v1/completions", "body": {"model": "e", "prompt": '["x"]'}}
    assert read_records([chat])[0]["answer_key"] != plain["answer_key"]


@pytest.mark.parametrize(
    ("given", "body", "code", "field"),
    [
        (None, {}, "missing_parameter", "input"),
        ("", {}, "empty_prompt", "input"),
        ([], {}, "empty_prompt", "input"),
        (["x", ""], {}, "empty_prompt", "input[1]"),
        ([[1], []], {}, "empty_prompt", "input[1]"),
        ({"text": "x"}, {}, "invalid_parameter", "input"),
        ([1, "x"], {}, "invalid_parameter", "input"),
        (["x", 1], {}, "invalid_parameter", "input[1]"),
        ([[1, -1]], {}, "invalid_parameter", "input[0]"),
        ([True], {}, "invalid_parameter", "input"),
        (["x"] * (MOST_INPUTS + 1), {}, "invalid_parameter", "input"),
        ("x", {"dimensions": 0}, "invalid_parameter", "dimensions"),
        ("x", {"dimensions": 2.5}, "invalid_parameter", "dimensions"),
        ("x", {"dimensions": True}, "invalid_parameter", "dimensions"),
        ("x", {"dimensions": "8"}, "invalid_parameter", "dimensions"),
        ("x", {"dimensions": 1e300}, "invalid_parameter", "dimensions"),
        ("x", {"encoding_format": "int8"}, "invalid_parameter", "encoding_format"),
        ("x", {"temperature": 1}, "unsupported_parameter", "temperature"),
        ("x", {"truncate_prompt_tokens": 5}, "unsupported_parameter", "truncate_prompt_tokens"),
        ("x", {"priority": False}, "unsupported_parameter", "priority"),
        ("x", {"model": 5}, "invalid_parameter", "model"),
    ],
)
def test_what_cannot_be_answered_names_its_field(
    given: object, body: dict[str, Any], code: str, field: str
) -> None:
    (error,) = read_records([line(given, **body)])
    assert error["outcome"] == Outcome.ERROR
    assert (error["code"], error["field"], error["custom_id"]) == (code, field, "a")


def test_rows_of_the_table_are_read_again_as_they_were() -> None:
    rows = read_records(
        [
            {**line(["x", "y"], dimensions=4, encoding_format="base64", user="u"), "custom_id": "a"},
            {**line([[1, 2], [3]]), "custom_id": "b"},
        ]
    )
    stored = [
        {**row, "settings_json": json.dumps({"dimensions": 4, "input_lengths": [1, 1]})} for row in rows[:1]
    ]
    again = read_records([*stored, rows[1]])
    for row, before in zip(again, rows, strict=True):
        for name in ("answer_key", "prompt", "endpoint", "settings_json", "passthrough_json"):
            assert row[name] == before[name], name


def test_no_default_of_sampling_is_looked_at() -> None:
    row = {**row_of(dimensions=4), "settings_json": json.dumps({"dimensions": 4, "input_lengths": [5, 2]})}
    settings = engine_sampling(row, SamplingDefaults(max_tokens=99, temperature=1.5), 0)
    assert (settings["max_tokens"], settings["temperature"], settings["n"]) == (1, 0.0, 2)
