"""Nights in a real SGLang, on the CPU in an environment of its own. `make test-sglang` installs it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from engine.backends.contract import FAILED, STOPPED
from tests.servers.sglang_cpu import INSTALLED, PYTHON, WHY
from tests.support.demo_nights import answer, batch_line, night_request, opened, write_lines
from tests.support.engine_nights import COUNTS, ended_night, night_of, same_log_probabilities, told
from tests.support.mmlu import mmlu_lines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not INSTALLED.exists(), reason=WHY),
    # Each start of SGLang takes half a minute or more.
    pytest.mark.timeout(600),
]
SIZES = {"kv_tokens": 12288, "token_budget": 512, "max_sequences": 32, "part_answers": 1000}


def in_sglang(root: Path, *options: str, **settings):
    given = {"engine": "sglang", "engine_python": str(PYTHON), "engine_options": options}
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
    lines += [
        batch_line("seeded", count, max_tokens=8, temperature=0.8, seed=4),
        batch_line("both", count, max_tokens=8, ignore_eos=True, stop_token_ids=[322]),
        batch_line("penalty", count, max_tokens=8, presence_penalty=1.0),
    ]
    root = tmp_path / "sglang"
    write_lines(root / "logs", "a.jsonl", lines)
    with opened(in_sglang(root, **SIZES), root / "scratch") as night:
        results = answer(night)
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
        errors = {
            row["custom_id"]: (row["code"], row["field"]) for row in night.read_table("errors").to_pylist()
        }
        identity = night.log.state.steps["origin"].results["answer_version"]
    # Sampled answers draw other random numbers there.
    sampled = rows.pop("sampled")
    assert len(sampled["choices"]) == 2
    assert {name: told(row) for name, row in rows.items()} == {
        name: told(row) for name, row in native.items() if name != "sampled"
    }
    assert errors == {
        "seeded": ("unsupported_parameter", "seed"),
        "both": ("unsupported_parameter", "stop_token_ids"),
        "penalty": ("unsupported_parameter", "presence_penalty"),
    }
    assert same_log_probabilities(native["logprobs"], rows["logprobs"])
    assert identity == ["sglang", "sglang 0.5.23"]
    assert 0 < results["hit_rate"] < 1
    assert results["kv_tokens"] == 12288
    # It tells nothing of its steps.
    assert results["steps"] is None


@pytest.fixture(name="counted", scope="module")
def _counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """Return what our engine answers to `COUNTS`."""
    root = tmp_path_factory.mktemp("native")
    _, rows, _ = night_of(root, COUNTS, night_request(root))
    return {name: told(row) for name, row in rows.items()}


@pytest.mark.parametrize(
    ("end", "inside", "code"),
    [
        ("SIGQUIT", "", FAILED),
        ("SIGKILL", "sglang::scheduler", FAILED),
        ("SIGKILL", "", -signal.SIGKILL),
        ("SIGTERM", "", STOPPED),
    ],
)
def test_whatever_ends_it_nothing_is_lost_or_doubled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: dict[str, tuple],
    end: str,
    inside: str,
    code: int,
) -> None:
    """SIGQUIT is what its scheduler sends to its parent when it fails."""
    request = in_sglang(tmp_path, max_sequences=4)
    assert ended_night(tmp_path, request, monkeypatch, end, code, inside=inside) == counted
    # Its own processes, which began in the folder of the job, go with it.
    left = [one for one in psutil.process_iter(["cwd"]) if str(tmp_path) in (one.info["cwd"] or "")]
    assert psutil.wait_procs(left, timeout=10)[1] == []


def test_settings_and_constraints_are_those_of_our_engine(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["count", "name"],
    }
    settings: dict[str, dict] = {
        "bias": {"logit_bias": {"322": -100, "344": 4.5}},
        "drawn": {"temperature": 0.9, "min_p": 1.0},
        "with": {"stop": [" 7"], "include_stop_str_in_output": True},
        "schema": {
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        },
        "regex": {"structured_outputs": {"regex": "[0-9]{3,5}"}},
        "open end": {"structured_outputs": {"regex": "[0-9 ]+"}},
        "choice": {"structured_outputs": {"choice": ["eleven", "twelve ::= 12"]}},
        "grammar": {"structured_outputs": {"grammar": 'start: ("a" | "b")~4 NUMBER\nNUMBER: /[0-9]{2}/'}},
        "on": {"structured_outputs": {"regex": "[0-9]{3}"}, "ignore_eos": True},
        "open end, on": {"structured_outputs": {"regex": "[0-9 ]+"}, "ignore_eos": True},
    }
    lines = [
        batch_line(f"{name}, {text}", text, **{"max_tokens": 40, **fields})
        for name, fields in settings.items()
        for text in ("Count from 4 to 9.", "Say what comes after 8.")
    ]
    _, native, _ = night_of(tmp_path / "native", lines, night_request(tmp_path / "native", **SIZES))
    root = tmp_path / "sglang"
    _, rows, _ = night_of(root, lines, in_sglang(root, **SIZES))
    assert len(rows) == len(lines)
    assert {name for name, row in rows.items() if told(row) != told(native[name])} == set()
