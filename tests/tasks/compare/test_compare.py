"""Engines and orders measured against each other: what is asked, what is counted, what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from engine.backends.facts import NATIVE_FACTS, Capabilities, EngineFacts
from engine.errors import EngineError
from flows.cli import main
from tasks.base.errors import ConfigurationError
from tasks.compare import compare as module
from tasks.compare import variants
from tasks.compare.compare import _row, compare
from tasks.compare.document import COLUMNS, cells, document
from tasks.compare.measure import Measured
from tasks.compare.variants import Variant, variants_of
from tasks.report.document import to_html
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, night_request, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path


def test_every_engine_in_every_order_with_its_own_options() -> None:
    options = ["endpoint:url=http://a/v1", "vllm:enforce_eager=true"]
    found = variants_of(["native", "vllm", "endpoint"], ["blend", "fcfs"], options, ["/opt/python"])
    assert [(one.engine, one.policy) for one in found] == [
        (engine, policy) for engine in ("native", "vllm", "endpoint") for policy in ("blend", "fcfs")
    ]
    assert [one.options for one in found[::2]] == [(), ("enforce_eager=true",), ("url=http://a/v1",)]
    assert [one.python for one in found[::2]] == [None, "/opt/python", None]


def test_engines_beside_each_other_have_an_interpreter_each() -> None:
    engines = ["vllm", "sglang", "native"]
    found = variants_of(engines, ["blend"], [], ["sglang:/a/python", "vllm:/b/python"])
    assert [one.python for one in found] == ["/b/python", "/a/python", None]
    for wrong in (["/a/python"], ["native:/a/python"], ["vllm:/a", "vllm:/b"]):
        with pytest.raises(ConfigurationError, match="--engine-python: one is for none of the engines"):
            variants_of(engines, ["blend"], [], wrong)


@pytest.mark.parametrize(
    ("engines", "policies", "options", "said"),
    [
        (["natvie"], ["blend"], [], "--engines: 'natvie' is unknown"),
        (["native", "native"], ["blend"], [], "--engines: names none, or one twice"),
        (["native"], ["best"], [], "--policies: 'best' is unknown"),
        (["native"], ["blend"], ["url=http://secret/v1"], "--engine-option: one is for none of the engines"),
        (["native"], ["blend"], ["vllm:a=1"], "--engine-option: one is for none of the engines"),
    ],
)
def test_what_cannot_be_compared(engines: list, policies: list, options: list, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as found:
        variants_of(engines, policies, options, [])
    assert "secret" not in str(found.value)


def item(name: str, ids: list[int] | None, cached: int | None, **more) -> dict:
    return {"request_id": name, "choice": 0, "token_ids": ids, "text": "t", "cached_tokens": cached} | more


def step(prefill: int, decode: int, preemptions: int = 0) -> dict:
    return {"type": "step", "prefill_tokens": prefill, "decode_tokens": decode, "preemptions": preemptions}


def test_what_an_engine_does_not_tell_stays_unknown() -> None:
    run = Measured(seconds=2.0)
    run.take({"type": "answers", "items": [item("a", [1, 2], 4), item("b", [3], None)]}, {"a": 10, "b": 20})
    assert (run.prompt_tokens, run.output_tokens, run.hit_tokens) == (30, 3, None)
    run.take(
        {"type": "answers", "items": [item("c", None, 8, prompt_tokens=7, completion_tokens=5)]}, {"c": 9}
    )
    assert (run.prompt_tokens, run.output_tokens, run.hit_tokens, run.steps) == (37, 8, None, None)
    row = _row(Variant("native", "blend"), NATIVE_FACTS, [run], run, None)
    unknown = {name for name, value in row.items() if value is None}
    assert unknown == {"hit_rate", "preemptions", "mixed_steps", "peak_bytes", "cost_per_million_tokens"}
    with pytest.raises(EngineError, match="no more"):
        run.take({"type": "fatal", "message": "no more"}, {})


def test_medians_over_the_rounds_and_the_share_of_equal_answers() -> None:
    def run(seconds: float, ids: list[list[int] | None], preemptions: int) -> Measured:
        found = Measured(seconds=seconds, prompt_tokens=100, output_tokens=20, hit_tokens=50, peak_bytes=10)
        found.take(step(5, 3, preemptions), {})
        found.take(step(0, 3), {})
        found.answers = {(str(i), 0): (one, "t") for i, one in enumerate(ids)}
        return found

    first = run(1.0, [[1], [2], [3], [4]], 0)
    runs = [
        run(2.0, [[1], [9], [3], None], 1),
        run(4.0, [[1], [2], [3], [9]], 5),
        run(3.0, [[9], [9], [3], [9]], 2),
    ]
    row = _row(Variant("vllm", "fcfs"), NATIVE_FACTS, runs, first, 3.6)
    assert (row["seconds"], row["tokens_per_second"], row["preemptions"]) == (3.0, 40.0, 2.0)
    # Without token ids the text decides.
    assert (row["equal_answers"], row["hit_rate"], row["mixed_steps"]) == (0.75, 0.5, 0.5)
    assert row["cost_per_million_tokens"] == pytest.approx(3.6 * 3.0 / 3600 / 120 * 1e6)


@pytest.fixture
def request_of(tmp_path: Path):
    lines = [batch_line(f"r{i}", f"Count from {i}.", max_tokens=4 + i % 3) for i in range(24)]
    lines.append(batch_line("seeded", "Count.", max_tokens=4, temperature=0.5, seed=1))
    write_lines(tmp_path / "logs", "a.jsonl", lines)
    return night_request(tmp_path)


def test_the_same_sample_goes_through_each_in_alternating_rounds(
    tmp_path: Path, request_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    other = EngineFacts("native", "other", Capabilities(), unsupported=("seed",))
    monkeypatch.setattr(module, "facts_of", lambda _n, _m, v: other if v.policy == "fcfs" else NATIVE_FACTS)
    heard = []
    found = compare(
        request_of,
        variants_of(["native"], ["blend", "fcfs"], [], []),
        tmp_path / "scratch",
        rounds=2,
        sample=10,
        price=1.0,
        on_run=lambda number, variant: heard.append((number, variant.policy)),
    )
    assert heard == [(0, "blend"), (0, "fcfs"), (1, "blend"), (1, "fcfs")]
    assert (found["requests"], found["refused"], found["rounds"]) == (10, 1, 2)
    assert [(row["order"], row["version"]) for row in found["rows"]] == [
        ("blend", NATIVE_FACTS.version),
        ("fcfs", "other"),
    ]
    assert all(row["equal_answers"] == 1.0 and row["tokens_per_second"] > 0 for row in found["rows"])
    page = to_html(document(found, "Title & more", "EUR"))
    assert "Title &amp; more" in page
    assert "one of the engines cannot answer them: 1." in page
    assert all(len(cells(found, row, "EUR")) == len(COLUMNS) for row in found["rows"])


def test_an_engine_that_dies_is_told(tmp_path: Path, request_of, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script", deaf=True)
    with pytest.raises(EngineError, match="native ended without a word"):
        compare(request_of, variants_of(["native"], ["blend"], [], []), tmp_path / "scratch", rounds=1)


def test_nothing_to_compare(tmp_path: Path, request_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "refusal_of", lambda *_: lambda _row: ConfigurationError("a", "b", "c"))
    with pytest.raises(ConfigurationError, match="--source: no request is left"):
        compare(replace(request_of), variants_of(["native"], ["blend"], [], []), tmp_path / "scratch")


def test_the_command_prints_what_it_found_and_writes_the_page(
    tmp_path: Path, request_of, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    page = tmp_path / "page.html"
    typed = ["compare", "--source", request_of.source, "--model", str(DEMO_MODEL), "--run-date", "2026-11-22"]
    typed += ["--rounds", "1", "--sample", "4", "--out", str(page)]
    assert main([*typed, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])
    assert [(row["engine"], row["order"]) for row in found["rows"]] == [
        ("native", "blend"),
        ("native", "fcfs"),
    ]
    assert main(typed) == 0
    shown = capsys.readouterr().out
    assert "4 requests with" in shown
    assert "tokens/s" in shown
    assert page.read_text().startswith("<!")
    assert main([*typed, "--engines", "vllm", "--engine-python", str(tmp_path / "none")]) == 2
    assert "--engine-python: " in capsys.readouterr().err
