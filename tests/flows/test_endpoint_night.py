"""A night at servers elsewhere: every request once, what they cannot do refused, what is not told null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.parameters.to_request import night_request
from flows.run.sequence import run_night
from flows.views.console import rows_of
from tasks.attempt.extract_inputs import extract_inputs
from tasks.base.errors import ConfigurationError
from tasks.infer.progress import StoppedError
from tasks.operations.doctor import Asked, check_night
from tasks.profile.tokenizer import load_tokenizer
from tasks.warehouse.replace import open_warehouse
from tests.servers.openai_api import MODEL, OpenAIServer, expected, openai_server
from tests.support.dated_nights import day, night_of
from tests.support.demo_nights import batch_line, write_lines
from tests.support.paths import DEMO_MODEL

REFUSED = "please refuse me"
TEXTS = [f"Count from {i} to {i + 9}" for i in range(12)]


def lines() -> list[str]:
    """Twelve to answer, two of them alike, one without a seed of its own; and four that get errors."""
    found = [batch_line(f"r{i}", text, max_tokens=8) for i, text in enumerate(TEXTS)]
    found.append(batch_line("again", TEXTS[3], max_tokens=8))
    found.append(batch_line("three", TEXTS[4], max_tokens=8, n=3, temperature=0.7))
    found.append(batch_line("logprobs", TEXTS[0], logprobs=True))
    found.append(batch_line("ids", TEXTS[0], stop_token_ids=[9]))
    found.append(batch_line("tools", TEXTS[0], tools=[{"type": "function"}]))
    found.append(batch_line("bad", REFUSED, max_tokens=8))
    return found


def fault(number: int) -> str | None:
    """Every fifth request fails in some way."""
    return ("429", "503", "reset", "abort")[number // 5 % 4] if number % 5 == 3 else None


def asked(root: Path, server: OpenAIServer, **changed: Any):
    options = [f"url={server.url}", f"model={MODEL}", "retries=3"]
    given = {"engine": "endpoint", "engine_option": options, "run_date": day(0), "max_bad_fraction": 0.5}
    return night_request(night_of(root, **{**given, **changed}))


def ids_of(text: str) -> list[int]:
    tokenizer = load_tokenizer(str(DEMO_MODEL))
    return tokenizer.encode([tokenizer.template.render([{"role": "user", "content": text}])], special=False)[
        0
    ]


def read_lines(uri: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(uri.removeprefix("file://")).read_text().splitlines()]


def test_a_night_of_another_engine(tmp_path) -> None:
    write_lines(tmp_path / "logs" / day(0).isoformat(), "day.jsonl", lines())
    catalog = f"sqlite:///{tmp_path}/catalog.db"
    with openai_server(owned_by="llamacpp", version="b1") as server:
        refused = ids_of(REFUSED)
        # The faults are the server's; this one is the request's.
        server.fault = lambda n, body: "500" if body["prompt"] == refused else fault(n)
        result = run_night(asked(tmp_path, server, catalog=catalog, report=True))
        bodies = len(server.seen.bodies)
        server.fault = lambda *_: None
        again = run_night(asked(tmp_path, server, catalog=catalog, report=True))
        assert again["reused"]
        assert again["run_key"] == result["run_key"]
        # A look at the server is all that the second one took.
        assert len(server.seen.bodies) == bodies + 1
    assert (result["requests"], result["outputs"], result["errors"]) == (18, 14, 4)
    output = {line["custom_id"]: line["response"]["body"] for line in read_lines(result["output_file"])}
    assert set(output) == {f"r{i}" for i in range(12)} | {"again", "three"}
    for i, text in enumerate(TEXTS):
        said, reason = expected(ids_of(text), max_tokens=8)
        choice = output[f"r{i}"]["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (said, reason)
        usage = output[f"r{i}"]["usage"]
        assert usage["prompt_tokens"] == len(ids_of(text))
        assert usage["completion_tokens"] == said.count(" ") + 1
        assert usage["prompt_tokens_details"] == {"cached_tokens": len(ids_of(text)) - 1}
    assert output["again"]["choices"] == output["r3"]["choices"]
    assert len({choice["message"]["content"] for choice in output["three"]["choices"]}) == 3
    errors = {line["custom_id"]: line["error"] for line in read_lines(result["error_file"])}
    assert {name: (error["code"], error["param"], error["retryable"]) for name, error in errors.items()} == {
        "logprobs": ("unsupported_parameter", "logprobs", False),
        "ids": ("unsupported_parameter", "stop_token_ids", False),
        "tools": ("unsupported_parameter", "tools", False),
        "bad": ("engine_error", None, True),
    }
    assert "llama.cpp b1" in errors["logprobs"]["message"]
    summary = json.loads(Path(result["summary_file"].removeprefix("file://")).read_text())
    assert (summary["engine"]["engine"], summary["engine"]["version"]) == (
        "endpoint",
        f"llama.cpp b1 {MODEL}",
    )
    # What it does not tell is not told, and what it tells is.
    for name in (
        *("engine_seconds", "modelled_seconds", "model_flops", "mfu", "mbu", "kv_occupancy", "steps"),
        *("recomputed_tokens", "retractions", "evicted_pages", "gpu_seconds_held", "gpu_seconds_busy"),
        *("ideal_seconds", "overlap_fraction", "idle_tail_seconds", "measured_energy_joules", "cost"),
    ):
        assert summary[name] is None, name
    lengths = [len(ids_of(text)) for text in (*TEXTS, TEXTS[4])]
    assert summary["hit_rate"] == pytest.approx((sum(lengths) - len(lengths)) / sum(lengths))
    assert summary["peak_running"] >= 1
    rows = dict(rows_of(result))
    assert rows["computed twice"] == "not measured"
    (attempt,) = (
        open_warehouse(catalog, f"file://{tmp_path}/store")
        .load_table("nightblend.batch_runs")
        .scan()
        .to_arrow()
        .to_pylist()
    )
    assert (attempt["device"], attempt["recomputed_tokens"], attempt["gpu_seconds_held"]) == (
        *("endpoint", None, None),
    )
    page = Path(result["report_file"].removeprefix("file://")).read_text()
    assert f"engine endpoint, llama.cpp b1 {MODEL}" in page


def test_a_night_whose_servers_go_away_stops_and_is_resumed(tmp_path) -> None:
    write_lines(tmp_path / "logs" / day(0).isoformat(), "day.jsonl", lines()[:12])
    with openai_server(seconds=0.05) as server:
        options = [f"url={server.url}", f"model={MODEL}", "give_up_s=1", "retries=99"]
        more = {"engine_option": options, "engine_restarts": 0, "max_in_flight": 2, "part_answers": 1}
        prompts = {tuple(ids_of(text)) for text in TEXTS}

        def stop_after_five(number: int, _: dict[str, Any]) -> str | None:
            if number == 6:
                server.die()
            return None

        server.fault = stop_after_five
        with pytest.raises(StoppedError, match="no server has answered anything"):
            run_night(asked(tmp_path, server, **more))
        before = {tuple(prompt) for prompt in server.seen.answered}
        assert 0 < len(before & prompts) < 12
        server.fault = lambda *_: None
        server.start()
        server.seen.answered.clear()
        result = run_night(asked(tmp_path, server, **more))
        after = [tuple(prompt) for prompt in server.seen.answered if tuple(prompt) in prompts]
    assert (result["outputs"], result["errors"]) == (12, 0)
    assert len(after) == len(set(after))
    # At most what was on its way when it went is asked for twice.
    assert len(before & set(after)) <= 2
    # A server that does not say what came from its cache leaves the hit rate unknown.
    assert result["hit_rate"] is None
    table = pq.read_table(result["output_file"].replace("output.jsonl", "outputs.parquet"))
    assert all(usage["cached_tokens"] is None for usage in table.column("usage").to_pylist())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine_option": []}, "--engine-option url: is missing"),
        ({"engine_option": ["url=http://a/v1", "key=sk-1"]}, "--engine-option: 'key' is not known"),
        ({"device": "cpu"}, "--device: has no meaning with --engine endpoint"),
        ({"kv_dtype": "fp8"}, "--kv-dtype: has no meaning"),
        ({"compute_on": "compute/compute"}, "--compute-on: has no meaning"),
        ({"pooling": "mean"}, "--pooling: has no meaning with --engine endpoint"),
        ({"engine": "native", "engine_option": [], "pooling": "cls"}, "--pooling: 'cls' is unknown"),
        ({"engine": "native"}, "--engine-option: is for an engine elsewhere"),
        ({"engine": "native", "engine_option": [], "max_in_flight": 3}, "--max-in-flight: is for an engine"),
        ({"engine": "tgi"}, "--engine: 'tgi' is unknown"),
        (
            {"engine": "vllm", "engine_option": [], "compute_on": "compute/compute"},
            "--compute-on: does not go with --engine vllm",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(tmp_path, changed: dict[str, Any], said: str) -> None:
    given = {"engine": "endpoint", "engine_option": ["url=http://localhost:1/v1"]} | changed
    with pytest.raises(ConfigurationError) as error:
        night_request(night_of(tmp_path, run_date=day(0), **given))
    assert str(error.value).startswith(said)
    assert "sk-1" not in str(error.value)


def test_what_is_wrong_with_the_servers_is_told_before_any_work(tmp_path) -> None:
    write_lines(tmp_path / "logs" / day(0).isoformat(), "day.jsonl", lines()[:2])

    def said(request: Any) -> str:
        with pytest.raises(ConfigurationError) as error:
            extract_inputs(request, tmp_path / "scratch")
        return str(error.value)

    with openai_server(owned_by="other") as server:
        request = asked(tmp_path, server, engine_option=[f"url={server.url}"])
        assert f"does not have {DEMO_MODEL.name}; it has {MODEL}" in said(request)
        assert said(asked(tmp_path, server, top_k=5)).startswith("--top-k: openai-compatible served does not")
    assert "cannot be reached" in said(request)
    assert not (tmp_path / "store" / "triage").exists()


def test_the_doctor_looks_at_the_servers(tmp_path) -> None:
    def found(*options: str, **more: Any):
        look = {"store": str(tmp_path / "store"), "model": str(DEMO_MODEL), "engine": "endpoint"}
        checks = {check.name: check for check in check_night(Asked(**look, engine_option=options, **more))}
        assert "device" not in checks
        return checks["engine"]

    with openai_server(owned_by="other", ids=False) as server:
        good = found(f"url={server.url}", f"model={MODEL}")
        assert (good.outcome, good.text[:44]) == ("ok", "openai-compatible served as text answers and")
        assert "requests that ask for top_k, seed" in good.text
    bad = found(f"url={server.url}", f"model={MODEL}")
    assert (bad.outcome, bad.remedy) == ("failed", "See that the server is up, and its address")
    assert found("url=x").outcome == "failed"
