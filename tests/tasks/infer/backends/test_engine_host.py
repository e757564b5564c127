"""The host of engines for a step infer elsewhere: every message once, whatever is asked again; its end."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tasks.infer.backends import engine_host
from tasks.infer.backends.engine_host import EngineHost
from tasks.plan.plan import FIRST_FOLDER, plan
from tests.support import scripted_backend
from tests.support.demo_nights import batch_line, night_request, opened, write_lines
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 12


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job."""
    root = tmp_path_factory.mktemp("job")
    write_lines(root / "logs", "a.jsonl", [batch_line(f"r{i}", f"Count to {i}") for i in range(COUNT)])
    with opened(night_request(root, max_sequences=2), root / "scratch") as night:
        plan(night)
        return night.scratch / FIRST_FOLDER


@pytest.fixture
def host(tmp_path, monkeypatch) -> EngineHost:
    scripted_backend.use(monkeypatch, tmp_path / "script")
    return EngineHost(3600.0)


def sent(host: EngineHost, folder: Path, name: str) -> None:
    for path in folder.iterdir():
        # In parts, as over a network.
        content = path.read_bytes()
        for start in range(0, max(len(content), 1), 1000):
            host.put(name, path.name, content[start : start + 1000])


def taken(host: EngineHost, name: str, *, twice: bool = False) -> tuple[list[dict[str, Any]], Any]:
    """Return all messages and the end."""
    found: list[dict[str, Any]] = []
    while True:
        batch = host.take(name, len(found), 5.0)
        if twice:
            # The answer was lost on the way.
            again = host.take(name, len(found), 0.0)
            assert again.messages[: len(batch.messages)] == batch.messages
            assert again.first == batch.first
            batch = again if again.end is None or not batch.messages else batch
        assert batch.first == len(found)
        assert len(batch.messages) <= engine_host.KEPT
        found += batch.messages
        if batch.end is not None:
            return found, batch.end


@pytest.mark.parametrize("twice", [False, True])
def test_every_message_comes_once(host, job, twice: bool) -> None:
    sent(host, job, "one")
    host.start("one")
    found, end = taken(host, "one", twice=twice)
    items = [message["items"] for message in found if message["type"] == "answers"]
    answers = [item["request_id"] for some in items for item in some]
    assert len(answers) == len(set(answers)) == COUNT
    assert (found[0]["type"], found[-1]["type"]) == ("ready", "done")
    assert end.code == 0
    assert end.running is not None
    # It may be asked for its end again.
    assert host.take("one", len(found), 0.0).end == end


def test_an_engine_that_was_followed_by_another_says_nothing_more(host, job) -> None:
    sent(host, job, "one")
    sent(host, job, "two")
    host.start("one")
    first = host.take("one", 0, 5.0)
    assert first.messages
    host.start("two")
    late = host.take("one", 1, 0.0)
    assert (late.messages, late.end is not None) == ([], True)
    found, _ = taken(host, "two")
    assert sum(len(message["items"]) for message in found if message["type"] == "answers") == COUNT


def test_an_engine_that_is_asked_to_stop_sends_what_it_has(host, job, tmp_path) -> None:
    scripted_backend.change(tmp_path / "script" / "script.json", step_s=0.05)
    sent(host, job, "one")
    host.start("one")
    host.take("one", 0, 5.0)
    host.ask_to_stop("one")
    found, end = taken(host, "one")
    assert found[-1]["type"] == "stopped"
    assert end.code == 4


def test_a_host_that_nobody_asks_ends_with_its_engine(job) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tasks.infer.backends.engine_host import EngineHost\n"
        "host = EngineHost(2.0)\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    host.put('one', path.name, path.read_bytes())\n"
        "print(host.start('one'), flush=True)\n"
        "time.sleep(600)\n"
    )
    ended = subprocess.Popen(
        [sys.executable, "-c", script, str(job)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert ended.stdout is not None
    engine = psutil.Process(int(ended.stdout.readline()))
    assert ended.wait(60) == 1
    engine.wait(60)
    ended.stdout.close()
