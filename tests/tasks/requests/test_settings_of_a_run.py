"""Settings of requests, from the log to the published lines, on the demo's model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer

from tasks.publish.output_lines import output_line
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

COUNT = "Count from 3 to 9.\nAnswer:"


def completion(name: str, prompt: object = COUNT, **body: object) -> str:
    made = {"prompt": prompt, "max_tokens": 24, **body}
    return json.dumps({"custom_id": name, "url": "/v1/completions", "body": made})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Answer the lines; return the choices by name, and the codes of errors."""
    root: Path = tmp_path_factory.mktemp("settings")
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    (four,) = tokenizer(" 4", add_special_tokens=False)["input_ids"][-1:]
    lines = [
        completion("plain"),
        completion("echo", echo=True),
        completion("echo-n", echo=True, n=2, temperature=0.5, seed=1),
        completion("echo-ids", prompt=tokenizer(COUNT)["input_ids"], echo=True),
        completion("stop", stop="7"),
        completion("stop-too", stop="7", include_stop_str_in_output=True),
        completion("biased", logit_bias={str(four): -100}),
        completion("beyond", logit_bias={str(10**6): 1}),
        completion("least", min_tokens=24),
        completion("ended", max_completion_tokens=24),
        completion("repeats", frequency_penalty=2, presence_penalty=2, repetition_penalty=2),
        batch_line("effort", "Count from 3 to 9.", reasoning_effort="low", max_tokens=8),
        batch_line("no-turn", "Count from 3 to 9.", add_generation_prompt=False, max_tokens=8),
        batch_line("turn", "Count from 3 to 9.", max_tokens=8),
    ]
    write_lines(root / "logs", "day.jsonl", lines)
    with opened(night_request(root), root / "scratch") as night:
        answer(night)
        rows = night.read_table("outputs").to_pylist()
        errors = night.read_table("errors").to_pylist()
    found = {row["custom_id"]: output_line(row, "m")["response"]["body"] for row in rows}
    codes = {row["custom_id"]: f"{row['code']} {row['field']}" for row in errors}
    return found, codes


def test_settings_of_a_run(run: tuple[dict[str, dict[str, Any]], dict[str, str]]) -> None:
    found, codes = run

    def text(name: str, choice: int = 0) -> str:
        made = found[name]["choices"][choice]
        return str(made["message"]["content"] if "message" in made else made["text"])

    plain = text("plain")
    assert "3 4 5 6 7 8 9" in plain
    assert text("echo") == COUNT + plain
    assert found["echo"]["usage"]["completion_tokens"] == found["plain"]["usage"]["completion_tokens"]
    assert all(text("echo-n", choice).startswith(COUNT) for choice in (0, 1))
    cut = plain[: plain.index("7")]
    assert (text("stop"), text("stop-too")) == (cut, cut + "7")
    assert found["stop-too"]["choices"][0]["finish_reason"] == "stop"
    assert " 3 4 " in plain
    assert " 4 " not in text("biased")
    assert found["plain"]["usage"]["completion_tokens"] < 24
    assert found["least"]["usage"]["completion_tokens"] == 24
    assert found["least"]["choices"][0]["finish_reason"] == "length"
    assert text("ended") == plain
    assert text("repeats") != plain
    prompts = {name: found[name]["usage"]["prompt_tokens"] for name in ("turn", "no-turn", "effort")}
    assert prompts["no-turn"] < prompts["turn"] == prompts["effort"]
    assert codes == {"echo-ids": "unsupported_parameter echo", "beyond": "invalid_parameter logit_bias"}
