"""A night at a real server, llama.cpp's own: the answers of our engine. `make test-llama-cpp` installs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.llama_cpp import PYTHON, LlamaCpp, llama_cpp
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines
from tests.support.engine_nights import night_of
from tests.support.paths import DEMO_MODEL
from tests.support.server_faults import faulty_night
from tests.support.server_faults import lines as faulty_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="llama.cpp's server is not installed (make test-llama-cpp installs it)"
)
COUNT = 40


def lines() -> list[str]:
    found = [batch_line(f"r{i}", f"Count from {i} to {i + 9}.", max_tokens=24) for i in range(COUNT)]
    found.append(batch_line("stop", "Count from 3 to 12.", max_tokens=24, stop=[" 7"]))
    return found


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What our own engine answers."""
    root = tmp_path_factory.mktemp("native")
    write_lines(root / "logs", "a.jsonl", lines())
    with opened(night_request(root), root / "scratch") as night:
        answer(night)
        return outputs_of(night)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LlamaCpp]:
    with llama_cpp(DEMO_MODEL, tmp_path) as running:
        yield running


def asked(root: Path, server: LlamaCpp, *options: str, **settings):
    given = (f"url={server.url}", *options)
    return night_request(root, engine="endpoint", device="endpoint", engine_options=given, **settings)


def test_its_answers_are_those_of_our_engine(tmp_path, server, native) -> None:
    more = [
        batch_line("long", "word " * 1500, max_tokens=8),
        batch_line("logprobs", "Count.", logprobs=True),
        batch_line("ids", "Count.", stop_token_ids=[5]),
        batch_line("sampled", "Count from 1 to 5.", max_tokens=12, temperature=0.8, seed=2**40, n=2),
    ]
    write_lines(tmp_path / "logs", "a.jsonl", lines() + more)
    with opened(asked(tmp_path, server), tmp_path / "scratch") as night:
        results = answer(night)
        found = outputs_of(night)
        errors = {
            row["custom_id"]: (row["code"], row["field"]) for row in night.read_table("errors").to_pylist()
        }
        rows = {row["custom_id"]: row for row in night.read_table("outputs").to_pylist()}
    sampled = found.pop("sampled")
    assert found == native
    assert len(sampled) > 0
    assert len(rows["sampled"]["choices"]) == 2
    assert errors == {
        "long": ("context_length_exceeded", None),
        "logprobs": ("unsupported_parameter", "logprobs"),
        "ids": ("unsupported_parameter", "stop_token_ids"),
    }
    # It counts as we do: token ids go as they are, and hits are told to the token.
    assert all(row["usage"]["prompt_tokens"] > 0 for row in rows.values())
    assert 0 < results["hit_rate"] < 1
    assert (results["kv_tokens"], results["steps"]) == (None, None)


def test_with_faults_and_killed_on_the_way_it_answers_every_request_once(tmp_path, server) -> None:
    _, native, _ = night_of(tmp_path / "native", faulty_lines(), night_request(tmp_path / "native"))
    found = faulty_night(tmp_path / "served", server)
    assert found == {name: row["text"] for name, row in native.items()}
