"""A whole run killed in the middle, and a second run beside a live one, as a user would see them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.runlog.log import RunLog
from tasks.store.open import open_store
from tasks.warehouse.replace import open_warehouse
from tests.support.demo_nights import DAY, batch_line, write_lines
from tests.support.paths import DEMO_MODEL

pytestmark = pytest.mark.slow

COUNT = 60


def command(root: Path, *more: str) -> list[str]:
    settings = {
        "job": "kill",
        "source": root / "logs",
        "store": root / "store",
        "model": DEMO_MODEL,
        "run-date": DAY,
        "max-sequences": 4,
        "part-answers": 5,
        "kv-tokens": 4096,
        "lease-s": 20,
        "heartbeat-s": 1,
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "flows.cli", "run", *flags, "--no-report", "--json", *more]


def start(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_log(root: Path) -> RunLog | None:
    store = open_store(str(root / "store"))
    first = [info.key for info in store.list("kill/runs/") if info.key.endswith("/log/00000000.json")]
    if not first:
        return None
    found = RunLog(store, first[0].removesuffix("/log/00000000.json"))
    found.refresh()
    return found


def pause_in_the_middle(
    root: Path, process: subprocess.Popen[bytes], parts: int
) -> tuple[psutil.Process, list[str]]:
    """Halt the engine once so many parts are durable; return it and their names."""
    wait_for_parts(root, process, parts)
    (engine,) = [c for c in psutil.Process(process.pid).children() if "engine.backends.native" in c.cmdline()]
    engine.suspend()
    return engine, wait_for_parts(root, process, parts)


def wait_for_parts(root: Path, process: subprocess.Popen[bytes], parts: int) -> list[str]:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        log = run_log(root)
        if log is not None and len(found := log.state.parts_of("outputs")) >= parts:
            return [part.name for part in found]
        time.sleep(0.1)
    pytest.fail(f"no {parts} parts appeared: {process.communicate()[1].decode()[-2000:]}")


@pytest.fixture
def logs(tmp_path) -> Path:
    lines = [
        batch_line(f"r{i}", f"Count from {i} to {i + 90}", max_tokens=120, ignore_eos=True)
        for i in range(COUNT)
    ]
    write_lines(tmp_path / "logs", "day.jsonl", lines)
    return tmp_path


def test_a_killed_run_is_resumed_and_a_second_live_one_is_refused(logs):
    process = start(logs)
    engine, before = pause_in_the_middle(logs, process, 2)

    second = subprocess.run(command(logs), capture_output=True, check=False, timeout=120)
    assert second.returncode == 5, second.stderr.decode()
    message = second.stderr.decode().strip().splitlines()[-1]
    assert str(process.pid) in message
    assert "--take-over" in message

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    engine.resume()
    # The engine sees its parent's end and goes by itself.
    assert psutil.wait_procs([engine], timeout=15)[1] == []

    finished = subprocess.run(command(logs), capture_output=True, check=False, timeout=240)
    assert finished.returncode == 0, finished.stderr.decode()
    result = json.loads(finished.stdout.splitlines()[-1])
    assert (result["requests"], result["outputs"], result["errors"]) == (COUNT, COUNT, 0)
    lines = Path(result["output_file"]).read_text().splitlines()
    answered = [json.loads(line)["custom_id"] for line in lines]
    assert sorted(answered) == sorted(f"r{i}" for i in range(COUNT))
    parts = [part.name for part in run_log(logs).state.parts_of("outputs")]
    assert parts[: len(before)] == before

    catalog = open_warehouse(f"sqlite:///{logs}/store/_warehouse/catalog.db", str(logs / "store"))
    attempts = catalog.load_table("nightblend.batch_runs").scan().to_arrow().to_pylist()
    assert sorted(row["status"] for row in attempts) == ["Completed", "Killed"]

    again = subprocess.run(command(logs), capture_output=True, check=False, timeout=120)
    assert json.loads(again.stdout.splitlines()[-1])["reused"] is True


def test_sigterm_keeps_finished_answers_and_leaves_a_resumable_run(logs):
    process = start(logs)
    engine, _ = pause_in_the_middle(logs, process, 1)
    process.terminate()
    engine.resume()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 4, stderr.decode()
    log = run_log(logs)
    assert log.state.ended.status == "stopped"
    assert log.state.holder is None
    finished = subprocess.run(command(logs), capture_output=True, check=False, timeout=240)
    assert finished.returncode == 0, finished.stderr.decode()
