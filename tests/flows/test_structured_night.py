"""A night whose requests ask for schemas, patterns and choices: what is published is what was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.api import run_night
from tests.support.demo_nights import DAY, batch_line, write_lines
from tests.support.paths import DEMO_MODEL
from tests.support.schemas import SCHEMAS, check

pytestmark = pytest.mark.slow

TITLE, PERSON = SCHEMAS["chat title"], SCHEMAS["age and flag"]


def form(schema) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


LINES = {
    "schema": {"response_format": form(TITLE)},
    "same": {"guided_json": TITLE},
    "drawn": {"response_format": form(PERSON), "n": 3, "temperature": 1.0, "seed": 5},
    "logprobs": {"guided_choice": ["yes", "no"], "logprobs": True, "top_logprobs": 2},
    "pattern": {"structured_outputs": {"regex": "[0-9]{3}-[a-z]"}, "temperature": 0.8},
    "cut": {"response_format": form(TITLE), "max_tokens": 2},
    "refused": {"response_format": form({"type": "array", "uniqueItems": True})},
    "plain": {},
}


@pytest.fixture(autouse=True)
def without_a_server(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_a_night_of_constrained_answers(tmp_path) -> None:
    lines = [
        batch_line(name, "Count from 2 to 6.", **{"max_tokens": 64} | body) for name, body in LINES.items()
    ]
    write_lines(tmp_path / "logs", "day.jsonl", lines)
    given = {
        "job": "forms",
        "source": tmp_path / "logs",
        "store": tmp_path / "store",
        "model": DEMO_MODEL,
        "run_date": DAY,
        "catalog": "none",
        "report": False,
        "kv_tokens": 4096,
    }
    night = run_night(**given, quiet=True)
    assert (night.outputs, night.errors) == (len(LINES) - 1, 1)
    published = [json.loads(line) for line in Path(night.output_file).read_text().splitlines()]
    choices = {line["custom_id"]: line["response"]["body"]["choices"] for line in published}
    said = {name: [choice["message"]["content"] for choice in found] for name, found in choices.items()}
    check(TITLE, said["schema"][0])
    assert said["same"] == said["schema"]
    assert len(said["drawn"]) == 3
    for text in said["drawn"]:
        check(PERSON, text)
    assert said["logprobs"][0] in ("yes", "no")
    assert choices["logprobs"][0]["logprobs"]["content"]
    assert re.fullmatch("[0-9]{3}-[a-z]", said["pattern"][0])
    assert {found[0]["finish_reason"] for name, found in choices.items() if name not in ("cut", "plain")} == {
        "stop"
    }
    assert choices["cut"][0]["finish_reason"] == "length"
    assert said["schema"][0].startswith(said["cut"][0])
    assert said["plain"][0].strip() == "2 3 4 5 6"
    (error,) = night.read_errors().to_dicts()
    assert (error["code"], error["field"]) == ("unsupported_parameter", "response_format")
    assert "uniqueItems" in error["message"]
