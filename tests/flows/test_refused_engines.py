"""An engine that cannot answer is one line before any work, for a night and for the doctor alike."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from engine.backends.endpoint.options import KEY_VARIABLE
from flows.parameters.to_request import night_request
from tasks.attempt.extract_inputs import extract_inputs
from tasks.base.errors import ConfigurationError
from tasks.operations.doctor import Asked, check_night
from tests.engine.backends.vllm.test_examine import KNOWN, interpreter
from tests.servers.openai_api import MODEL, openai_server
from tests.support.dated_nights import night_of
from tests.support.demo_nights import batch_line, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = date(2026, 11, 30)


@contextmanager
def engine_of(case: str, root: Path) -> Iterator[dict[str, Any]]:
    """Yield the settings that name an engine with a fault."""
    if case in {"unreachable", "wants a key", "wrong key", "another model"}:
        with openai_server(key=None if case == "another model" else "right") as server:
            if case == "unreachable":
                server.die()
            yield {"engine": "endpoint", "engine_option": [f"url={server.url}", "model=other"]}
        return
    changed: dict[str, dict[str, Any]] = {
        "old": {"version": "0.9.2"},
        "old Python": {"python": "3.10.4"},
        "without": {"distribution": None, "version": None},
        "unknown model": {"architectures": ["GPT2LMHeadModel"]},
    }
    path = str(root / "nowhere" / "python")
    if case == "another program":
        path = interpreter(root, "usage: ...", code=3)
    elif case != "absent":
        path = interpreter(root, json.dumps(KNOWN | changed.get(case, {})))
    more = {"engine_option": [f"adapter=calm={root}"]} if case == "adapter" else {}
    if case == "no model":
        more["model"] = str(root / "no-model")
    yield {"engine": "vllm", "engine_python": path, "device": "cpu", **more}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("absent", "--engine-python: {root}/nowhere/python is no interpreter"),
        ("another program", "--engine-python: {root}/python does not answer as Python does"),
        ("old Python", "--engine-python: {root}/python is Python 3.10.4"),
        ("without", "--engine-python: {root}/python has no vLLM"),
        ("old", "--engine-python: {root}/python has vllm 0.9.2, which is too old"),
        ("no model", "--model: "),
        ("unknown model", "--model: vllm 0.32.0+cpu does not know LlamaForCausalLM"),
        ("adapter", "--engine-option adapter: {root} holds no adapter_config.json"),
        ("unreachable", "--engine-option url: http://127.0.0.1:"),
        ("wants a key", "--engine-option key_env: http://127.0.0.1:"),
        ("wrong key", "--engine-option key_env: http://127.0.0.1:"),
        ("another model", "--engine-option model: http://127.0.0.1:"),
    ],
)
def test_it_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, said: str
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if case == "wrong key":
        monkeypatch.setenv(KEY_VARIABLE, "wrong")
    write_lines(tmp_path / "logs" / DAY.isoformat(), "day.jsonl", [batch_line("a", "Count.")])
    with engine_of(case, tmp_path) as asked:
        with pytest.raises(ConfigurationError) as error:
            extract_inputs(night_request(night_of(tmp_path, run_date=DAY, **asked)), tmp_path / "scratch")
        look = {"store": str(tmp_path / "store"), "model": str(DEMO_MODEL), **asked}
        # One after the other, while the server is there.
        checks = list(check_night(Asked(**look)))
    line = str(error.value)
    assert line.startswith(said.format(root=tmp_path))
    assert "\n" not in line
    expected = {
        "unreachable": "cannot be reached",
        "wants a key": "answers 401: it wants a key",
        "wrong key": f"answers 401: it refuses the key of {KEY_VARIABLE}",
        "another model": f"does not have other; it has {MODEL}",
    }
    assert expected.get(case, "") in line
    assert not (tmp_path / "store" / "triage").exists()
    assert not (tmp_path / "scratch").exists()
    # The doctor says the same.
    failed = next(check for check in checks if check.outcome == "failed")
    assert failed.name == ("model" if case == "no model" else "engine")
    assert error.value.remedy.startswith(failed.remedy)
