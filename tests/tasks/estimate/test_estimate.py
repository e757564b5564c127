"""The estimate: logs in, figures and plain answers out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.plan.tree import build_tree, distinct_tokens
from flows.cli import main
from flows.parameters.estimate import EstimateParameters
from flows.parameters.to_request import estimate_request
from tasks.base.errors import ConfigurationError
from tasks.estimate.case import Case, Way
from tasks.estimate.estimate import estimate, estimate_requests
from tasks.estimate.machine import choose_devices, choose_model, make_machine, parse_prices
from tasks.estimate.page import document
from tasks.estimate.read import Source, read_requests
from tasks.estimate.report import Question, Study
from tasks.estimate.requests import Requests
from tasks.estimate.savings import spread
from tasks.estimate.words import headline
from tasks.report.document import to_html, to_markdown
from tests.support.paths import trace

if TYPE_CHECKING:
    from pathlib import Path

MODEL = choose_model("llama-3.1-8b")


def lengths_file(path: Path, rows: list[tuple[int, int]]) -> Path:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens", *(f"XXX,{p},{d}" for p, d in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def mixed_rows(count: int) -> list[tuple[int, int]]:
    """Long prompts with short answers, and short prompts with long answers."""
    rng = np.random.default_rng(5)
    return [(int(rng.integers(1500, 2500)), 20) if i % 4 else (60, 900) for i in range(count)]


def parameters(source: Path, **more: object) -> EstimateParameters:
    return EstimateParameters.parse(
        {"source": str(source), "model": "llama-3.1-8b", "gpu": "a100", "max_gpus": 2} | more
    )


def run(source: Path, **more: object) -> dict:
    return estimate(estimate_request(parameters(source, **more)))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    source = lengths_file(tmp_path_factory.mktemp("logs") / "day.csv", mixed_rows(480))
    return run(source, price="2", currency="EUR")


def embedding_line(name: str, given: object) -> str:
    body = {"model": "e", "input": given}
    return json.dumps({"custom_id": name, "url": "/v1/embeddings", "body": body}) + "\n"


def test_inputs_for_embeddings_are_requests_that_end_with_their_prompt(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    chat = {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 9}
    lines = [
        embedding_line("a", ["one two three", "one two four five"]),
        embedding_line("b", [[11, 12, 13], [7]]),
        embedding_line("c", ["one two three", "one two four five"]),
    ]
    path.write_text("".join(lines))
    found = read_requests(Source(str(path)), MODEL, tmp_path / "a")
    assert found.output.tolist() == [1] * 6
    assert np.diff(found.start).tolist() == [3, 4, 3, 1, 3, 4]
    # Equal requests are computed once, the inputs of one by themselves.
    assert found.repeats.tolist() == [0, 1, 2, 3, 0, 1]
    assert found.about["lengths"] == {"logged": 6, "assumed": 0}
    path.write_text(
        "".join([*lines, json.dumps({"custom_id": "d", "url": "/v1/chat/completions", "body": chat})])
    )
    with pytest.raises(ConfigurationError, match="--output-tokens"):
        read_requests(Source(str(path)), MODEL, tmp_path / "b")
    found = read_requests(Source(str(path), output_tokens=5), MODEL, tmp_path / "c")
    assert found.output.tolist() == [1] * 6 + [5]
    assert found.about["lengths"] == {"logged": 6, "assumed": 1}


def test_every_figure_of_a_machine_fits_the_others(mixed: dict) -> None:
    (machine,) = mixed["machines"]
    gain = machine["gain"]
    assert gain["low"] <= gain["central"] <= gain["high"]
    assert gain["central"] == pytest.approx(machine["today"]["seconds"] / machine["ours"]["seconds"])
    assert np.prod([s["factor"] for s in machine["sources"]]) == pytest.approx(gain["central"])
    seconds = sum(s["seconds"] for s in machine["sources"])
    assert seconds == pytest.approx(machine["today"]["seconds"] - machine["ours"]["seconds"])
    assert {(row["order"], row["overlap"]) for row in machine["orders"]} == {
        (order, overlap) for order in ("fcfs", "dfs", "interleave", "blend") for overlap in (False, True)
    }
    for row in machine["orders"]:
        assert row["money"] == pytest.approx(2 * row["gpu_hours"])
        assert row["label"] in {"simulated", "sampled"}
    # Side by side is never slower than one after the other, at each order's best.
    by_way = {(row["order"], row["overlap"]): row["seconds"] for row in machine["orders"]}
    assert by_way["blend", True] <= by_way["blend", False]
    hours = [row["ours_hours"] for row in machine["replicas"]]
    assert hours == sorted(hours, reverse=True)
    assert machine["replicas"][0]["ours_hours"] == pytest.approx(machine["ours"]["hours"])


def test_what_is_bound_by_what_and_the_place_on_the_map(mixed: dict) -> None:
    workload, gains = mixed["machines"][0]["workload"], mixed["machines"][0]["map"]
    assert workload["density"] == gains["density"]
    assert gains["simulated"] == pytest.approx(mixed["machines"][0]["gain"]["central"])
    assert all(g >= 1.0 for row in gains["gains"] for g in row)
    assert len(gains["gains"]) == len(gains["sharings"])
    # Far from balance there is nothing to hide.
    assert gains["gains"][0][0] < max(gains["gains"][0])
    assert gains["gains"][0][-1] < max(gains["gains"][0])


def test_the_words_say_the_figures(mixed: dict) -> None:
    text = to_markdown(document(mixed)).replace("\\", "")
    machine = mixed["machines"][0]
    assert headline(mixed, machine) in text
    assert "EUR" in text
    assert "simulated" in text
    assert "assumed, not measured" in text
    page = to_html(document(mixed))
    assert page.count("<svg") == 4
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len(page) < 1_000_000


def test_no_lengths_are_refused_unless_some_are_assumed(tmp_path: Path) -> None:
    log = tmp_path / "day.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "How many legs has a spider?"}]}
    rows = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions", "body": body | {"seed": i}}
        for i in range(3)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigurationError, match="--output-tokens: none of 3 requests has the length"):
        run(log)
    found = run(log, output_tokens=50)
    assert found["requests"]["length_source"] == "assumed"
    assert found["requests"]["output_tokens"] == 150
    assert any("assumed" in text for text in found["assumptions"])
    effects = {e["change"] for e in found["machines"][0]["effects"]}
    assert "50% shorter" in effects


def test_a_model_that_does_not_fit_names_the_group_that_would(tmp_path: Path) -> None:
    log = lengths_file(tmp_path / "day.csv", [(100, 10)] * 4)
    with pytest.raises(ConfigurationError, match=r"--gpu: llama-3.1-70b needs 141 GB .* 4xa100"):
        run(log, model="llama-3.1-70b")
    found = run(log, model="llama-3.1-70b", gpu="a100,2xh200")
    assert [machine["machine"] for machine in found["machines"]] == ["2xh200"]
    assert "4xa100" in found["refused"]["a100"]


def test_one_request_is_not_worth_it(tmp_path: Path) -> None:
    found = run(lengths_file(tmp_path / "day.csv", [(1000, 100)]))
    verdict = found["machines"][0]["verdict"]
    assert verdict["answer"] == "not worth it"
    assert "one request" in verdict["reasons"][0]


def test_equal_requests_are_computed_once_and_that_is_told_apart(tmp_path: Path) -> None:
    log = tmp_path / "day.jsonl"
    rows = [
        {
            "custom_id": str(i),
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "m", "prompt": "a long and always equal prompt " * 40, "max_tokens": 64},
        }
        for i in range(50)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run(log, output_tokens=64)
    machine = found["machines"][0]
    assert found["requests"]["distinct"] == 1
    parts = {s["name"]: s["factor"] for s in machine["sources"]}
    # Fifty at a time take little longer than one: the engine in use batches them, too.
    assert parts["repeats"] > 1.0
    assert np.prod(list(parts.values())) == pytest.approx(machine["gain"]["central"])


def test_a_price_of_zero_is_told_in_hours(tmp_path: Path) -> None:
    log = lengths_file(tmp_path / "day.csv", mixed_rows(200))
    found = run(log, price=0)
    assert found["machines"][0]["money"]["ours"]["central"] == 0.0
    assert "At a price of 0" in headline(found, found["machines"][0])


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("gpu", "b900", "--gpu: 'b900' is unknown"),
        ("gpu", "a100,a100", "--gpu: a100 is given twice"),
        ("price", "-1", "--price: '-1' is no price"),
        ("price", "h200=3", "--price: h200 is not among --gpu"),
        ("model", "nothing-there", "--model: nothing-there is neither"),
        ("today", "lifo", "--today: 'lifo' is unknown"),
        ("job", "nightly", "--store: is missing"),
        ("kv_tokens", "64", "--kv-tokens: 64 is too small for the longest request"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, option: str, value: str, words: str) -> None:
    log = lengths_file(tmp_path / "day.csv", [(100, 10)] * 4)
    with pytest.raises(ConfigurationError, match=words.replace("(", r"\(")):
        run(log, **{option: value})


def test_the_command_prints_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = lengths_file(tmp_path / "day.csv", mixed_rows(200))
    options = [
        "estimate",
        "--source",
        str(log),
        "--model",
        "llama-3.1-8b",
        "--gpu",
        "h100",
        "--max-gpus",
        "1",
    ]
    assert main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machines"][0]["machine"] == "h100"
    assert main(options) == 0
    assert "Where the gain comes from" in capsys.readouterr().out
    assert main([*options, "--max-gpus", "x"]) == 2
    assert "--max-gpus" in capsys.readouterr().err


def test_block_hashes_become_prompts_that_share_what_the_hashes_share(tmp_path: Path) -> None:
    log = tmp_path / "day.jsonl"
    rows = [
        {"timestamp": i, "input_length": 1300, "output_length": 5, "hash_ids": [1, 2, 10 + i]}
        for i in range(4)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_requests(Source(str(log)), MODEL, tmp_path)
    prompts = [found.tokens[found.start[i] : found.start[i + 1]] for i in range(4)]
    assert all(np.array_equal(p[:1024], prompts[0][:1024]) for p in prompts)
    assert len({p[1024:].tobytes() for p in prompts}) == 4
    # Equal lengths are no equal requests.
    assert found.repeats.tolist() == [0, 1, 2, 3]


def test_the_mooncake_trace_shares_its_hashed_blocks(tmp_path: Path) -> None:
    path = trace("mooncake_conversation_trace.jsonl")
    rows = [json.loads(line) for line in path.open()]
    hashes = [row["hash_ids"] for row in rows]
    distinct = {h for request in hashes for h in request}
    assert (sum(map(len, hashes)), len(distinct)) == (288_500, 182_790)
    found = read_requests(Source(str(path)), MODEL, tmp_path)
    assert np.diff(found.start).tolist() == [row["input_length"] for row in rows]
    # Every distinct hash is computed once, the last one of a prompt for its part only.
    full = 512 * len({h for request in hashes for h in request[:-1]})
    assert full < distinct_tokens(build_tree(found.tokens, found.start)) < 512 * len(distinct)


def test_a_query_gives_lengths_or_prompts_and_its_text_is_told_nowhere(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "day.duckdb")) as connection:
        connection.execute(
            "create table asked as select 'how many legs has spider ' || i as question, 40 + i as size, "
            "7 as answer, i % 2 as day from range(6) t(i)"
        )
    place = f"duckdb:///{tmp_path}/day.duckdb"
    uri = f"{place}?query=select * from asked where day = 0 and question <> 'a secret'"
    lengths = {"input_tokens": "size", "output_tokens": "answer"}
    found = read_requests(Source(uri, columns=lengths), MODEL, tmp_path / "a")
    assert np.diff(found.start).tolist() == [40, 42, 44]
    assert found.output.tolist() == [7, 7, 7]
    assert found.name == "day.duckdb"
    assert "secret" not in str(found.about)
    prompts = {"prompt": "question", "output_tokens": "answer"}
    found = read_requests(Source(uri, columns=prompts), MODEL, tmp_path / "b")
    # The common beginning is one.
    assert found.tokens[0] == found.tokens[found.start[1]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=60), st.integers(1, 80), st.integers(0, 9))
def test_a_sample_is_made_of_whole_requests(lengths: list[int], count: int, seed: int) -> None:
    start = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    rng = np.random.default_rng(seed)
    whole = Requests(
        "all",
        rng.integers(0, 4, start[-1]).astype(np.int32),
        start,
        np.arange(1, len(lengths) + 1).astype(np.int32),
        rng.integers(0, 2, len(lengths)),
        ("a", "b"),
        np.arange(len(lengths)),
    )
    part = whole.sample(count, seed)
    assert 1 <= len(part) <= len(whole)
    for i in range(len(part)):
        request = int(part.output[i]) - 1
        mine = part.tokens[part.start[i] : part.start[i + 1]]
        assert np.array_equal(mine, whole.tokens[start[request] : start[request + 1]])
        assert part.workload[i] == whole.workload[request]


def test_independent_bounds_are_added_as_squares() -> None:
    low, high = spread([("a", 0.9), ("a", 1.1), ("b", 0.9), ("b", 1.0)])
    assert low == pytest.approx(np.exp(-np.sqrt(2) * abs(np.log(0.9))))
    assert high == pytest.approx(1.1)
    assert spread([]) == (1.0, 1.0)


def made_up(count: int, output: int = 100) -> Requests:
    """Requests of 400 random tokens, of one workload."""
    start = np.arange(0, 400 * count + 1, 400, dtype=np.int64)
    tokens = np.random.default_rng(0).integers(0, 9, start[-1]).astype(np.int32)
    outputs, zeros = np.full(count, output, np.int32), np.zeros(count, np.int64)
    return Requests("all", tokens, start, outputs, zeros, ("w",), np.arange(count))


def test_orders_that_admit_alike_are_simulated_once_and_overlap_is_none_of_it() -> None:
    case = Case(made_up(60), make_machine(MODEL, choose_devices("a100")[0], longest=500))
    ways = {name: Way(name, overlap=True, budget=512) for name in ("dfs", "interleave", "blend")}
    runs = {name: case.run(way) for name, way in ways.items()}
    assert runs["interleave"] is runs["dfs"]
    assert runs["blend"] is not runs["dfs"]
    other = case.with_interference(0.9)
    assert other.run(ways["blend"]) is runs["blend"]
    assert other.seconds(ways["blend"]) >= case.seconds(ways["blend"])


def test_a_sample_is_as_large_as_its_longest_answer_asks_for() -> None:
    requests = made_up(300, output=10)
    machine = make_machine(MODEL, choose_devices("a100")[0], longest=20_500)
    question = Question(sample=20, whole=200)
    # All of them take about a hundred times as long as one of their answers.
    assert 20 <= len(Study(requests, machine, question).sample.requests) <= 60
    requests.output[0] = 20_000
    study = Study(requests, machine, question)
    assert study.sample is study.base
    assert 150 <= len(study.sample.requests) <= 250


def test_prices_go_to_the_gpus_they_name() -> None:
    devices = choose_devices("a100,4xa100,h100")
    assert parse_prices("a100=1,h100=3", devices) == {"a100": 1.0, "4xa100": 1.0, "h100": 3.0}
    assert parse_prices(None, devices) == {}


def test_a_larger_group_is_faster() -> None:
    requests = made_up(100)
    request = parameters_of("a100,2xa100")
    found = estimate_requests(requests, MODEL, choose_devices("a100,2xa100"), {}, request)
    one, two = found["machines"]
    assert two["ours"]["seconds"] < one["ours"]["seconds"]
    assert two["ours"]["gpu_hours"] == pytest.approx(2 * two["ours"]["hours"])


def parameters_of(gpu: str):
    return estimate_request(
        EstimateParameters.parse({"source": "x", "model": "llama-3.1-8b", "gpu": gpu, "max_gpus": 1})
    )


def test_a_cpu_has_no_overlap_and_one_budget() -> None:
    machine = make_machine(MODEL, choose_devices("cpu")[0], longest=100)
    assert not machine.overlaps
    assert machine.budgets == (1024,)
