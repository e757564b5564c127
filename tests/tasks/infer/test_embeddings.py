"""Nights with requests for embeddings, from the log to the published lines, against transformers."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from transformers import AutoTokenizer

from tasks.infer.progress import StoppedError
from tasks.profile.profile import PREFILL_ONLY, profile
from tasks.publish.output_lines import error_line, output_line
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines
from tests.support.embedding_models import add_modules, demo_reference, demo_with_end, expected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TEXTS = ["Count from 3 to 9.", "Count from 3 to 7, and then on to 12, as the one before does."]
IDS = [[11, 12, 13, 14], [11, 12, 13, 99, 5]]
LONG = "Count from 3 to 9. " * 3000


def line(name: str, given: object, **body: Any) -> str:
    request = {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "e", "input": given},
    }
    request["body"] |= body
    return json.dumps(request)


LINES = [
    line("one", TEXTS[0]),
    line("again", TEXTS[0], user="u-1", encoding_format="base64"),
    line("cut", TEXTS[0], dimensions=10),
    line("many", [*TEXTS, TEXTS[0]], encoding_format="float"),
    line("ids", IDS[0]),
    line("many-ids", IDS, encoding_format="base64", dimensions=3, metadata={"workload": "index"}),
    line("long", [TEXTS[0], LONG]),
    line("no-such-token", [10**6]),
    line("too-wide", "x", dimensions=100_000),
    line("nothing", ""),
    line("prompt", "x", truncate_prompt_tokens=3),
    batch_line("chat", "Count from 3 to 9.", max_tokens=12),
]


def vectors(body: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the vectors of the body of an answer, in whichever encoding."""
    assert [one["index"] for one in body["data"]] == list(range(len(body["data"])))
    assert {one["object"] for one in body["data"]} == {"embedding"}
    given = [one["embedding"] for one in body["data"]]
    return [
        np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else np.array(one, np.float32)
        for one in given
    ]


def close(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one @ other == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)


def lines_of(night) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    outputs = [output_line(row, "m") for row in night.read_table("outputs").to_pylist()]
    errors = [error_line(row) for row in night.read_table("errors").to_pylist()]
    return {o["custom_id"]: o["response"]["body"] for o in outputs}, {
        e["custom_id"]: e["error"] for e in errors
    }


def test_a_night_with_chats_and_embeddings(tmp_path: Path) -> None:
    """By a model that does both, since the job says how its embeddings are made."""
    model = demo_with_end(tmp_path / "model")
    write_lines(tmp_path / "logs", "day.jsonl", LINES)
    with opened(night_request(tmp_path, model, pooling="mean"), tmp_path / "scratch") as night:
        profile(night)
        results = answer(night)
        found, refused = lines_of(night)
        profiles = night.read_table("profiles").to_pylist()
        tables = {
            kind: pl.DataFrame(pl.from_arrow(night.read_table(kind))) for kind in ("outputs", "requests")
        }
        lengths = night.read_table("lengths").num_rows
        done = night.log.state.steps
    reference, tokenizer = demo_reference(model), AutoTokenizer.from_pretrained(model)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert ids[0][-1] == tokenizer.eos_token_id
    mean = [expected(reference, one, "mean") for one in (*ids, *IDS)]
    close(vectors(found["one"]), mean[:1])
    close(vectors(found["again"]), mean[:1])
    close(vectors(found["cut"]), [expected(reference, ids[0], "mean", 10)])
    close(vectors(found["many"]), [mean[0], mean[1], mean[0]])
    close(vectors(found["ids"]), mean[2:3])
    close(vectors(found["many-ids"]), [expected(reference, one, "mean", 3) for one in IDS])
    assert isinstance(found["again"]["data"][0]["embedding"], str)
    assert isinstance(found["many"]["data"][0]["embedding"], list)
    assert found["many"]["object"] == "list"
    tokens = 2 * len(ids[0]) + len(ids[1])
    assert found["many"]["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert found["many-ids"]["metadata"] == {"workload": "index"}
    assert found["chat"]["usage"]["completion_tokens"] > 0
    assert {name: (error["code"], error["param"]) for name, error in refused.items()} == {
        "long": ("context_length_exceeded", "input[1]"),
        "no-such-token": ("invalid_token", "input"),
        "too-wide": ("invalid_parameter", "dimensions"),
        "nothing": ("empty_prompt", "input"),
        "prompt": ("unsupported_parameter", "truncate_prompt_tokens"),
    }
    # The one that differs in its encoding alone shares an answer; the inputs are sequences of their own.
    assert done["plan"].results["sharing_an_answer"] == 1
    assert done["plan"].results["sequences"] == 1 + 1 + 3 + 1 + 2 + 1
    assert results["computed_answers"] == 6
    assert results["output_tokens"] == found["chat"]["usage"]["completion_tokens"]
    assert results["prefill_tokens"] + results["hit_tokens"] == results["prompt_tokens"]
    assert results["ideal_seconds"] > 0
    # Vectors are no answers to learn lengths from.
    assert lengths == 1
    sources = {row["output_length_source"] for row in profiles if row["estimated_output_tokens"] == 0}
    assert sources == {PREFILL_ONLY}
    assert sum(row["estimated_output_tokens"] == 0 for row in profiles) == 6
    heaviest = max(profiles, key=lambda row: row["density"])
    assert heaviest["estimated_output_tokens"] == 0
    assert all(np.isfinite(row["density"]) for row in profiles)
    row = tables["outputs"].filter(pl.col("custom_id") == "many").row(0, named=True)
    assert (row["text"], row["token_ids"], row["finish_reason"]) == ("", None, "stop")
    assert [len(vector) for vector in row["embeddings"]] == [len(mean[0])] * 3
    assert tables["outputs"].filter(pl.col("custom_id") == "chat")["embeddings"].to_list() == [None]


@pytest.mark.slow
def test_a_night_that_goes_on_computes_no_vector_twice(tmp_path: Path) -> None:
    """Stopped in the middle, then reused by another run of the date, whose log has one line more."""
    lines = [line(f"e{i}", [f"Count from {i} to {j}." for j in range(3)]) for i in range(40)]
    write_lines(tmp_path / "logs", "day.jsonl", lines)
    model = add_modules(demo_with_end(tmp_path / "model"))
    request = night_request(tmp_path, model, token_budget=16, max_sequences=4, part_seconds=0.0)
    with opened(request, tmp_path / "first") as night:

        def stop(seen) -> None:
            if seen.answered >= 3 and night.log.state.stop_requested is None:
                night.log.request_stop("a test")

        with pytest.raises(StoppedError):
            answer(night, stop)
        before = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
    assert 0 < len(before) < 40
    with opened(request, tmp_path / "second") as night:
        answer(night)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
    assert len(rows) == 40
    assert {name: rows[name] for name in before} == before
    write_lines(tmp_path / "logs", "day.jsonl", [*lines, line("more", "Count from 1 to 2.")])
    with opened(request, tmp_path / "third") as night:
        results = answer(night)
        again = {row["custom_id"]: row["embeddings"] for row in night.read_table("outputs").to_pylist()}
    assert results["reused_answers"] == 40
    assert {name: again[name] for name in rows} == {name: row["embeddings"] for name, row in rows.items()}
    reference, tokenizer = demo_reference(model), AutoTokenizer.from_pretrained(model)
    ids = tokenizer("Count from 1 to 2.")["input_ids"]
    close([np.array(one, np.float32) for one in again["more"]], [expected(reference, ids)])
    assert again["e1"][2] == pytest.approx(again["more"][0], abs=1e-6)
