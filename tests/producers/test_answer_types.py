"""Output lines are of the types of the openai package. `make test-producers` installs it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tasks.publish.output_lines import dump_line, output_line
from tests.producers.test_producers import PYTHON
from tests.support.answered_rows import answered, token
from tests.support.demo_nights import answer, night_request, opened, write_lines
from tests.support.paths import ROOT
from tests.support.tool_templates import HERMES
from tests.tasks.extract.test_batch_file import ANSWERED, REFUSED, TYPES
from tests.tasks.requests.test_tools import model_with

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="the openai package is not installed (make test-producers installs it)"
)
CALLS = [{"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}]
CHOICES = [
    {"text": text, "token_ids": [1], "finish_reason": reason, "logprobs": [token(text, -0.5)]}
    for text, reason in (("Yes", "stop"), ("No", "length"))
]
TOLD = {
    "instructions": "Be brief.",
    "tools": [{"type": "function", "name": "now", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "function", "name": "now"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
    "reasoning": {"effort": "low"},
    "temperature": 0.5,
}
ROWS: dict[str, dict[str, Any]] = (
    {
        f"{endpoint} {name}": {"endpoint": endpoint, **columns}
        for endpoint in ("chat", "completions", "responses")
        for name, columns in {
            "text": {},
            "cut": {"finish_reason": "length"},
            "choices": {"choices": CHOICES},
            "metadata": {"passthrough_json": json.dumps({"body": {"metadata": {"team": "a"}}})},
        }.items()
    }
    | {
        f"embeddings {encoding}": {
            "endpoint": "embeddings",
            "text": "",
            "embeddings": [[0.6, -0.8], [1.0, 0.0]],
            "passthrough_json": json.dumps({"body": {"encoding_format": encoding}}),
        }
        for encoding in ("float", "base64")
    }
    | {
        "chat calls": {"text": "", "tool_calls_json": json.dumps([CALLS])},
        "chat calls and text": {
            "choices": CHOICES,
            "tool_calls_json": json.dumps([None, CALLS]),
        },
        "responses calls": {
            "endpoint": "responses",
            "text": "I look.",
            "tool_calls_json": json.dumps([CALLS]),
            "passthrough_json": json.dumps({"responses": TOLD}),
        },
    }
)


def wrong(path: Path, lines: list[dict[str, Any]]) -> list[str]:
    path.write_bytes(b"".join(map(dump_line, lines)))
    command = [str(PYTHON), "-m", "tests.producers.answer_types", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return ended.stdout.splitlines()


def test_every_output_line_is_of_its_type(tmp_path: Path) -> None:
    lines = [output_line(answered(custom_id=name, **columns), "m") for name, columns in ROWS.items()]
    assert wrong(tmp_path / "lines.jsonl", lines) == []


def test_a_batch_file_with_everything_is_answered_in_these_types(tmp_path: Path) -> None:
    """Chats, text completions, responses, embeddings, schemas, tools, images, mistakes."""
    records = [*ANSWERED, *REFUSED]
    write_lines(tmp_path / "logs", "batch.jsonl", [*map(json.dumps, records)])
    model = model_with(tmp_path / "model", HERMES)
    with opened(night_request(tmp_path, model, pooling="last"), tmp_path / "scratch") as night:
        answer(night)
        lines = [output_line(row, "m") for row in night.read_table("outputs").to_pylist()]
        errors = night.read_table("errors").to_pylist()
    names = Counter([*(line["custom_id"] for line in lines), *(row["custom_id"] for row in errors)])
    assert names == Counter(str(record["custom_id"]) for record in records)
    assert {line["custom_id"] for line in lines} == {record["custom_id"] for record in ANSWERED}
    assert {line["response"]["body"]["object"] for line in lines} == TYPES.keys()
    assert wrong(tmp_path / "lines.jsonl", lines) == []


def test_what_is_not_of_its_type_is_told(tmp_path: Path) -> None:
    for endpoint in ("chat", "completions", "responses", "embeddings"):
        line = output_line(answered(endpoint=endpoint, embeddings=[[1.0]]), "m")
        line["response"]["body"].pop("model")
        assert wrong(tmp_path / "lines.jsonl", [line])
