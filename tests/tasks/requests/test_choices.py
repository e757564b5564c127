"""Several choices and log probabilities: from the request line to the published line."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from tasks.infer.answers import answer_of
from tasks.infer.progress import StoppedError
from tasks.publish.openai_logprobs import chat_logprobs, text_logprobs
from tasks.publish.output_lines import output_line
from tasks.requests.choices import Choices, choice_seed, sequences
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines
from tests.support.engine_nights import recorded_engines
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow

NIGHT = SimpleNamespace(run_key="k", attempt=SimpleNamespace(id="a"))


def item(choice: int, text: str, tokens: int, cached: int = 0) -> dict:
    return {
        "choice": choice,
        "text": text,
        "token_ids": [7] * tokens,
        "finish_reason": "stop",
        "cached_tokens": cached,
        "started_at": 10.0 + choice,
        "finished_at": 20.0 + choice,
        "logprobs": None,
    }


def test_choices_are_complete_once_and_in_order() -> None:
    choices = Choices()
    assert choices.missing("a", 3) == [0, 1, 2]
    assert choices.add("a", item(2, "c", 1), 3) is None
    assert choices.add("b", item(0, "other", 1), 1) == [item(0, "other", 1)]
    assert choices.missing("a", 3) == [0, 1]
    assert choices.add("a", item(0, "a", 1), 3) is None
    # An engine that died had sent it already: the first one stands, and it completes nothing.
    assert choices.add("a", item(0, "again", 1), 3) is None
    assert [i["text"] for i in choices.add("a", item(1, "b", 1), 3) or []] == ["a", "b", "c"]
    assert choices.missing("a", 3) == [0, 1, 2]


def test_seeds_of_choices_differ_and_the_first_is_the_request_s() -> None:
    seeds = {choice_seed(seed, i) for seed in (0, 1, 2**64 - 1) for i in range(20)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert choice_seed(5, 0) == 5
    assert sequences({"temperature": 0.0, "n": 4}) == 1
    assert sequences({"temperature": 0.1, "n": 4}) == 4


def test_usage_counts_every_choice_and_the_prompt_once() -> None:
    items = [item(0, "a", 4, cached=9), item(1, "b", 6, cached=2)]
    row = answer_of(items, 10, {"n": 2}, NIGHT)
    assert row["usage"] == {"prompt_tokens": 10, "completion_tokens": 10, "cached_tokens": 2}
    assert (row["text"], [c["text"] for c in row["choices"]]) == ("a", ["a", "b"])
    assert (row["started_at"].timestamp(), row["finished_at"].timestamp()) == (10.0, 21.0)
    greedy = answer_of(items[:1], 10, {"n": 3}, NIGHT)
    assert greedy["usage"]["completion_tokens"] == 12
    assert [c["text"] for c in greedy["choices"]] == ["a"] * 3
    assert answer_of(items[:1], 10, {"n": 1}, NIGHT)["choices"] is None


LETTER = {"token_id": 1, "bytes": b"a", "logprob": -0.5, "top": []}
EURO = [
    {"token_id": 2, "bytes": b"\xe2\x82", "logprob": -1.0, "top": []},
    {"token_id": 3, "bytes": b"\xac", "logprob": -0.1, "top": []},
]


def test_parts_of_a_character_have_their_bytes_in_both_forms() -> None:
    chat = chat_logprobs([LETTER, *EURO])
    assert chat["content"][0] == {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    assert [entry["bytes"] for entry in chat["content"]] == [[97], [0xE2, 0x82], [0xAC]]
    text = text_logprobs([*EURO, LETTER])
    assert text["tokens"] == ["bytes:\\xe2\\x82", "bytes:\\xac", "a"]
    assert text["token_logprobs"] == [-1.0, -0.1, -0.5]
    assert text["text_offset"] == [0, 0, 1]
    assert text["top_logprobs"] is None


def test_alternatives_of_both_forms() -> None:
    other = {"token_id": 9, "bytes": b"b", "logprob": -0.4}
    token = {**LETTER, "top": [other]}
    (entry,) = chat_logprobs([token])["content"]
    assert entry["top_logprobs"] == [{"token": "b", "logprob": -0.4, "bytes": [98]}]
    # The chosen token is there although it is not among the most likely ones.
    assert text_logprobs([token])["top_logprobs"] == [{"b": -0.4, "a": -0.5}]


def requests() -> list[str]:
    drawn = {"temperature": 2.0, "max_tokens": 12, "ignore_eos": True}
    chat = "Count from 3 to 9"
    rows = [
        batch_line("one", chat, **drawn, seed=5),
        batch_line("three", chat, **drawn, seed=5, n=3, logprobs=True, top_logprobs=2),
        batch_line("twin", chat, **drawn, seed=5, n=3, logprobs=True, top_logprobs=2),
        batch_line("greedy", chat, max_tokens=6, n=3),
        batch_line("flag", chat, max_tokens=6, logprobs=True),
    ]
    rows += [batch_line(f"d{i}", chat, **drawn, n=4) for i in range(6)]
    body = {"model": "m", "prompt": "Count from 1", "max_tokens": 5, "n": 2, "logprobs": 2}
    rows.append(json.dumps({"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": body}))
    return rows


def published(night) -> dict[str, dict]:
    lines = [output_line(row, "m") for row in night.read_table("outputs").to_pylist()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["response"]["body"] for line in lines}


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("choices")
    write_lines(root / "logs", "a.jsonl", requests())
    with opened(night_request(root), root / "scratch") as night:
        results = answer(night)
        assert results["computed_answers"] == 11
        assert results["output_tokens"] == sum(
            b["usage"]["completion_tokens"] for b in published(night).values()
        )
        return published(night)


def test_choices_of_a_run(bodies) -> None:
    contents = {name: [c.get("message", c) for c in body["choices"]] for name, body in bodies.items()}
    texts = {name: [c.get("content", c.get("text")) for c in found] for name, found in contents.items()}
    for name, count in {"one": 1, "three": 3, "greedy": 3, "flag": 1, "text": 2, "d0": 4}.items():
        body = bodies[name]
        assert [choice["index"] for choice in body["choices"]] == list(range(count))
        if name in {"one", "three", "d0"}:
            assert body["usage"]["completion_tokens"] == 12 * count
    assert texts["three"][0] == texts["one"][0]
    assert texts["three"] == texts["twin"]
    assert len(set(texts["three"])) == 3
    assert len(set(texts["greedy"])) == 1
    # Without a seed of their own, equal requests draw other choices; shared ones would be four in all.
    assert len({text for i in range(6) for text in texts[f"d{i}"]}) > 6


def test_logprobs_of_a_run(bodies) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    assert bodies["one"]["choices"][0]["logprobs"] is None
    for choice in bodies["three"]["choices"]:
        content = choice["logprobs"]["content"]
        assert len(content) == 12
        joined = b"".join(bytes(entry["bytes"]) for entry in content)
        ids = tokenizer(joined.decode(errors="replace"), add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == choice["message"]["content"]
        for entry in content:
            best = [other["logprob"] for other in entry["top_logprobs"]]
            assert len(best) == 2
            assert best[0] >= best[1]
            assert entry["logprob"] <= best[0] <= 0
    (flag,) = bodies["flag"]["choices"]
    assert all(entry["top_logprobs"] == [] for entry in flag["logprobs"]["content"])
    for choice in bodies["text"]["choices"]:
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"])
        assert "".join(found["tokens"]).startswith(choice["text"])
        for token, value, top in zip(
            *(found[k] for k in ("tokens", "token_logprobs", "top_logprobs")), strict=True
        ):
            # Greedy: the chosen token is the most likely one.
            assert top[token] == value == max(top.values())


def test_a_kill_neither_loses_nor_doubles_choices(tmp_path, bodies, monkeypatch) -> None:
    """A run stopped because its engine is killed while choices are incomplete; the next attempt's is, too."""
    started = recorded_engines(monkeypatch)
    incomplete: list[int] = []
    add = Choices.add

    def killing_add(self, key, found, count):
        items = add(self, key, found, count)
        # Answers that an engine sent before it was killed still come in: each engine is killed once.
        due = len(incomplete) < min(2, len(started))
        if due and count > 1 and items is None and found["choice"] >= len(incomplete):
            incomplete.append(found["choice"])
            os.kill(started[-1].process.pid, signal.SIGKILL)
        return items

    monkeypatch.setattr(Choices, "add", killing_add)
    write_lines(tmp_path / "logs", "a.jsonl", requests())
    request = night_request(tmp_path, max_sequences=3, engine_restarts=0)
    with opened(request, tmp_path / "one") as night, pytest.raises(StoppedError):
        answer(night)
    assert len(incomplete) == len(started) == 1
    request = night_request(tmp_path, max_sequences=3, engine_restarts=1)
    with opened(request, tmp_path / "two") as night:
        answer(night)
        found = published(night)
    assert (len(incomplete), len(started)) == (2, 3)
    assert found.keys() == bodies.keys()
    for name, body in bodies.items():
        if not name.startswith("d"):
            assert texts_of(found[name]) == texts_of(body)
        assert len(found[name]["choices"]) == len(body["choices"])
        assert found[name]["usage"]["completion_tokens"] == body["usage"]["completion_tokens"]


def texts_of(body: dict) -> list[str]:
    return [choice.get("message", {}).get("content", choice.get("text")) for choice in body["choices"]]


def test_a_row_of_an_older_version_is_one_plain_choice() -> None:
    row = {
        "request_id": "r" * 64,
        "custom_id": "c",
        "source_uri": "u",
        "source_line": 1,
        "endpoint": "chat",
        "passthrough_json": None,
        "text": "hi",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1},
        "finished_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    message = {"role": "assistant", "content": "hi", "refusal": None}
    assert output_line(row, "m")["response"]["body"]["choices"] == [
        {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    ]
