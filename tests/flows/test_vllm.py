"""Nights in a real vLLM, on the CPU in an environment of its own. `make test-vllm` installs it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.backends.contract import FAILED, STOPPED
from tasks.plan import plan as planning
from tests.servers.vllm_cpu import INSTALLED, PYTHON, WHY
from tests.support.adapters import write_adapter, write_merged
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines
from tests.support.engine_nights import COUNTS, ended_night, night_of, same_log_probabilities, told
from tests.support.mmlu import mmlu_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not INSTALLED.exists(), reason=WHY),
    # Each start of vLLM takes half a minute, the first one minutes: it compiles.
    pytest.mark.timeout(900),
]
EAGER = "enforce_eager=true"
SIZES = {"kv_tokens": 12288, "token_budget": 512, "max_sequences": 48, "part_answers": 1000}


def in_vllm(root: Path, *options: str, python: str = str(PYTHON), **settings):
    given = {"engine": "vllm", "engine_python": python, "engine_options": (EAGER, *options)}
    return night_request(root, **given | settings)


def test_its_answers_are_those_of_our_engine(tmp_path: Path) -> None:
    count = "Count from 4 to 9."
    lines = [
        *mmlu_lines(subjects=3, questions=30, long_answers=8),
        batch_line("stop", "Count from 3 to 12.", max_tokens=24, stop=[" 7"]),
        batch_line("stops", count, max_tokens=24, stop=["nothing", " 6 ", "8"]),
        batch_line("ids", count, max_tokens=24, stop_token_ids=[322]),
        batch_line("eos", count, max_tokens=60, ignore_eos=True),
        batch_line("two", count, max_tokens=8, n=2),
        batch_line("logprobs", count, max_tokens=8, logprobs=True, top_logprobs=3),
        batch_line("sampled", count, max_tokens=8, temperature=0.8, n=2),
    ]
    _, native, _ = night_of(tmp_path / "native", lines, night_request(tmp_path / "native", **SIZES))
    lines.append(batch_line("seeded", count, max_tokens=8, temperature=0.8, seed=4))
    root = tmp_path / "vllm"
    write_lines(root / "logs", "a.jsonl", lines)
    with opened(in_vllm(root, **SIZES), root / "scratch") as night:
        results = answer(night)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
        errors = {
            row["custom_id"]: (row["code"], row["field"]) for row in night.read_table("errors").to_pylist()
        }
        steps = night.read_table("steps").to_pylist()
        identity = night.log.state.steps["origin"].results["answer_version"]
    # Sampled answers draw other random numbers there.
    sampled = rows.pop("sampled")
    assert len(sampled["choices"]) == 2
    assert {name: told(row) for name, row in rows.items()} == {
        name: told(row) for name, row in native.items() if name != "sampled"
    }
    assert {row["finish_reason"] for row in rows.values()} == {"stop", "length"}
    assert errors == {"seeded": ("unsupported_parameter", "seed")}
    assert same_log_probabilities(native["logprobs"], rows["logprobs"])
    # Its version names the run, and its figures are those that ours gives.
    assert identity == ["vllm", f"vllm-cpu 0.32.0 {EAGER}"]
    computed = results["prefill_tokens"] + results["hit_tokens"]
    # The prompt of a second choice is computed, and counted once.
    prompts = results["prompt_tokens"] + sampled["usage"]["prompt_tokens"]
    assert computed == prompts + results["recomputed_tokens"]
    assert 0 < results["hit_rate"] < 1
    assert results["kv_tokens"] == 12288
    assert 0 < max(step["kv_occupancy"] for step in steps) <= 1
    assert results["steps"] == len(steps)
    assert None not in (results["evicted_pages"], results["gpu_seconds_busy"], results["mfu"])


AMONG = {"logit_bias": {str(token): 100 for token in range(330, 350)}, "ignore_eos": True}
"""With these an answer has some twenty tokens to take, which soon come again."""
PENALTIES: dict[str, dict[str, float]] = {
    "among": {},
    "presence": {"presence_penalty": 2.0},
    "frequency": {"frequency_penalty": 2.0},
    "negative": {"frequency_penalty": -2.0, "presence_penalty": -2.0},
    "repetition": {"repetition_penalty": 1.3},
    "rewarded": {"repetition_penalty": 0.7},
}


def test_settings_that_change_logits_do_the_same(tmp_path: Path) -> None:
    """Greedy ones; with `min_p` 1 nothing but the likeliest token is left, whatever is drawn."""
    texts = ("Count from 4 to 9.", "Count from 31 to 36.", "Say what comes after 8.")
    settings: dict[str, dict] = {
        **{name: {**AMONG, **penalties} for name, penalties in PENALTIES.items()},
        "bias": {"logit_bias": {"322": -100, "344": 4.5}},
        "least": {"min_tokens": 30},
        "least stop": {"min_tokens": 6, "stop": [" 5", " 7"]},
        "least token": {"min_tokens": 6, "stop_token_ids": [322]},
        "least on": {"min_tokens": 30, "ignore_eos": True},
        "with": {"stop": [" 7"], "include_stop_str_in_output": True},
        "with least": {"stop": [" 5", " 7"], "min_tokens": 6, "include_stop_str_in_output": True},
        "drawn": {"temperature": 0.9, "min_p": 1.0},
        "all": {
            "presence_penalty": 0.7,
            "frequency_penalty": 0.4,
            "repetition_penalty": 1.1,
            "logit_bias": {"344": -3},
            "min_tokens": 12,
            "stop": ["9"],
        },
    }
    lines = [
        batch_line(f"{name}, {text}", text, **{"max_tokens": 40, **fields})
        for name, fields in settings.items()
        for text in texts
    ]
    _, native, _ = night_of(tmp_path / "native", lines, night_request(tmp_path / "native", **SIZES))
    root = tmp_path / "vllm"
    _, rows, _ = night_of(root, lines, in_vllm(root, **SIZES))
    assert len(rows) == len(lines)
    different = {name for name, row in rows.items() if told(row) != told(native[name])}
    assert different == set()
    # They do something: no two penalties give the same answers.
    assert len({tuple(native[f"{name}, {text}"]["text"] for text in texts) for name in PENALTIES}) == 6


def test_constrained_answers_are_those_of_our_engine(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}},
        "required": ["count", "names"],
    }
    constraints: dict[str, dict] = {
        "schema": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        },
        "object": {"response_format": {"type": "json_object"}},
        "regex": {"structured_outputs": {"regex": "[0-9]{3,5}"}},
        "open end": {"structured_outputs": {"regex": "[0-9 ]+"}},
        "choice": {"structured_outputs": {"choice": ["eleven", "twelve ::= 12", "Eleven"]}},
        "grammar": {"structured_outputs": {"grammar": 'start: ("a" | "b")~4 NUMBER\nNUMBER: /[0-9]{2}/'}},
        "as many as it may": {"structured_outputs": {"choice": ["yes", "no"]}, "max_tokens": 3},
        "on": {"structured_outputs": {"regex": "[0-9]{3}"}, "ignore_eos": True},
        "stop": {"structured_outputs": {"regex": "[0-9 ]{20,}"}, "stop": ["7"]},
        "two": {"structured_outputs": {"regex": "[a-z]{4}"}, "n": 2},
    }
    lines = [
        batch_line(f"{name}, {text}", text, **{"max_tokens": 48, **fields})
        for name, fields in constraints.items()
        for text in ("Count from 4 to 9.", "Say what comes after 8.")
    ]
    # Some that are free, so that both are in one step.
    lines += [batch_line(f"free {i}", f"Count from {i} to {i + 9}.", max_tokens=24) for i in range(24)]
    _, native, _ = night_of(tmp_path / "native", lines, night_request(tmp_path / "native", **SIZES))
    root = tmp_path / "vllm"
    # Log probabilities come after the constraint there, and before it with us.
    lines.append(batch_line("both", "Count.", logprobs=True, structured_outputs={"regex": "[a-z]{3}"}))
    write_lines(root / "logs", "a.jsonl", lines)
    with opened(in_vllm(root, **SIZES), root / "scratch") as night:
        answer(night)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
        errors = [(row["custom_id"], row["field"]) for row in night.read_table("errors").to_pylist()]
    assert errors == [("both", "logprobs")]
    assert len(rows) == len(lines) - 1
    assert {name for name, row in rows.items() if told(row) != told(native[name])} == set()


def test_adapters_answer_as_models_that_they_are_merged_into(tmp_path: Path) -> None:
    names = ("calm", "loud")
    folders = {name: write_adapter(tmp_path / name, DEMO_MODEL, seed) for seed, name in enumerate(names, 1)}
    texts = [f"Count from {i} to {i + 9}." for i in range(12)]

    def lines(*models: str) -> list[str]:
        return [
            batch_line(f"{model}, {text}", text, model=model, max_tokens=16)
            for text in texts
            for model in models
        ]

    expected = {}
    for name in (DEMO_MODEL.name, *names):
        model = (
            write_merged(tmp_path / f"merged-{name}", DEMO_MODEL, folders[name])
            if name in folders
            else DEMO_MODEL
        )
        root = tmp_path / f"native-{name}"
        _, rows, _ = night_of(root, lines(name), night_request(root, model, **SIZES))
        expected |= {one: told(row) for one, row in rows.items()}
    options = [f"adapter={name}={folder}" for name, folder in folders.items()]
    root = tmp_path / "vllm"
    write_lines(root / "logs", "a.jsonl", lines(DEMO_MODEL.name, *names, "other"))
    with opened(in_vllm(root, *options, **SIZES), root / "scratch") as night:
        answer(night)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
        errors = night.read_table("errors").to_pylist()
    assert {name: told(row) for name, row in rows.items()} == expected
    # The adapters do something, each its own.
    for text in texts:
        assert len({expected[f"{name}, {text}"][1] and tuple(expected[f"{name}, {text}"][1])
                    for name in (DEMO_MODEL.name, *names)}) == 3  # fmt: skip
    assert {(row["code"], row["field"]) for row in errors} == {("invalid_parameter", "model")}
    assert len(errors) == len(texts)
    assert errors[0]["message"].endswith(f"known are {DEMO_MODEL.name}, calm, loud")


FAILS = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

MARK = Path({mark!r})


class Failing:
    '''Lets one step of vLLM fail once.'''

    def find_spec(self, name, path=None, target=None):
        if name != "vllm.v1.engine.llm_engine":
            return None
        spec = PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            step, seen = module.LLMEngine.step, []

            def failing(engine):
                seen.append(1)
                if len(seen) == 8 and not MARK.exists():
                    MARK.touch()
                    raise RuntimeError("a prompt may be in this text")
                return step(engine)

            module.LLMEngine.step = failing

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Failing())
"""


def failing_python(folder: Path) -> str:
    """Return an interpreter in which the eighth step of the first vLLM fails."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAILS.format(mark=str(folder / "failed")))
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{folder}" exec {PYTHON} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(name="counted", scope="module")
def _counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """Return what our engine answers to `COUNTS`."""
    root = tmp_path_factory.mktemp("native")
    _, rows, _ = night_of(root, COUNTS, night_request(root))
    return {name: told(row) for name, row in rows.items()}


@pytest.mark.parametrize(
    ("end", "code"), [("exception", FAILED), ("SIGKILL", -signal.SIGKILL), ("SIGTERM", STOPPED)]
)
def test_whatever_ends_it_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: dict[str, tuple], end: str, code: int
) -> None:
    root, failing = tmp_path / "vllm", end == "exception"
    python = failing_python(tmp_path / "failing") if failing else str(PYTHON)
    request = in_vllm(root, python=python, max_sequences=4)
    assert ended_night(root, request, monkeypatch, end, code) == counted
    if failing:
        assert (tmp_path / "failing" / "failed").exists()
        for log in (root / "scratch").glob("engine-*/engine.log"):
            assert "a prompt may be" not in log.read_text()


def test_a_blended_night_mixes_its_steps_and_preempts_no_more_than_fcfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These answers run to their limits, and that is known as it would be from a log of them.
    monkeypatch.setattr(planning, "estimate_lengths", lambda _logged, limit, _group: (limit * 1.0, None))
    lines = mmlu_lines(subjects=6, questions=240, long_answers=40)
    mixed, preempted, texts = {}, {}, {}
    for name, policy, scheduling in (
        ("ours", "blend", "auto"),
        ("blind", "blend", "plan"),
        ("fcfs", "fcfs", "auto"),
    ):
        root = tmp_path / name
        sizes = SIZES | {"kv_tokens": 5120}
        request = in_vllm(root, f"scheduling={scheduling}", policy=policy, **sizes)
        results, rows, steps = night_of(root, lines, request)
        both = [step["prefill_tokens"] > 0 and step["decode_tokens"] > 0 for step in steps]
        mixed[name], preempted[name] = float(np.mean(both)), results["retractions"]
        texts[name] = {custom_id: row["text"] for custom_id, row in rows.items()}
    assert texts["ours"] == texts["blind"] == texts["fcfs"]
    assert preempted["ours"] <= preempted["fcfs"] > 0
    assert mixed["ours"] > 2 / 3
    assert mixed["blind"] < mixed["ours"] / 2
