"""Nights on a real cluster, in real engines: every request once, whatever dies (`make test-ray`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from engine.backends.contract import DONE
from tasks.base.errors import ConfigurationError
from tasks.infer.backends import ray_cluster
from tasks.infer.backends.ray_cluster import connect, places_on_ray
from tasks.infer.infer import infer
from tasks.plan.plan import plan
from tests.support.demo_nights import answer, batch_line, night_request, opened, outputs_of, write_lines
from tests.support.paths import DEMO_MODEL, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.infer.progress import InferProgress

pytestmark = pytest.mark.timeout(280)
COUNT, REPLICAS, MOST_TOKENS, AT_A_TIME = 80, 4, 40, 2
SEEN = 12
"""Answers after which something dies."""
LONG = 500
"""Requests of a night that is not over before Ray notices the end of a raylet."""
LINES = [batch_line(f"r{i}", f"Count from {i} to {i + 20}", max_tokens=MOST_TOKENS) for i in range(LONG)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "PATIENCE_S", 15.0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process answers."""
    root = tmp_path_factory.mktemp("alone")
    write_lines(root / "logs", "a.jsonl", LINES)
    with opened(night_request(root), root / "scratch") as night:
        answer(night)
        return outputs_of(night)


def run(
    root: Path,
    address: str,
    disturb: Callable[[InferProgress], None] | None = None,
    count: int = COUNT,
) -> tuple[dict[str, Any], dict[str, str], list[dict[str, Any]]]:
    """Run a night on the cluster; return the results of step infer, the answers, and the steps."""
    write_lines(root / "logs", "a.jsonl", LINES[:count])
    request = night_request(root, max_sequences=AT_A_TIME, replicas=REPLICAS, ray=address, lease_s=30.0)
    with opened(request, root / "scratch") as night:
        plan(night)
        connect(address)
        results = infer(night, disturb, places=places_on_ray(REPLICAS, "cpu"))
        night.log.end_attempt("completed", DONE)
        assert night.read_table("errors").num_rows == 0
        return results, outputs_of(night), night.read_table("steps").to_pylist()


def first_of(answers: dict[str, str]) -> dict[str, str]:
    """Return the answers of the requests that a night has."""
    return {f"r{i}": answers[f"r{i}"] for i in range(COUNT)}


def once(do: Callable[[], object]) -> Callable[[InferProgress], None]:
    """Return what does something as soon as `SEEN` answers are there."""
    done = []

    def look(seen: InferProgress) -> None:
        if seen.answered >= SEEN and not done:
            done.append(True)
            do()

    return look


def hosts() -> list[psutil.Process]:
    """Return the processes of all actors that host engines."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any("ray::EngineHost" in part for part in process.info["cmdline"] or ())
    ]


def engines() -> list[psutil.Process]:
    """Return the engines on the cluster."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "engine.backends.native" in (process.info["cmdline"] or ())
        and any("nightblend-host-" in part for part in process.info["cmdline"])
    ]


def wasted(steps: list[dict[str, Any]], results: dict[str, Any]) -> int:
    """Return how many tokens were computed for answers that did not come of it."""
    return int(sum(step["decode_tokens"] for step in steps)) - int(results["output_tokens"])


def test_without_a_cluster_there_is_one_line_at_once() -> None:
    for address in ("127.0.0.1:1", "no-such-host.invalid:6379"):
        with pytest.raises(ConfigurationError, match=rf"--ray: no cluster answers at {address}") as told:
            connect(address)
        assert "\n" not in str(told.value)


def test_a_night_on_two_nodes_answers_as_one_process(tmp_path, cluster, alone) -> None:
    results, found, steps = run(tmp_path, cluster.address)
    assert found == first_of(alone)
    assert {step["replica"] for step in steps} == set(range(REPLICAS))
    assert (results["replicas"], results["engine_starts"]) == (REPLICAS, REPLICAS)


@pytest.mark.parametrize("victim", ["actor", "engine"])
def test_a_process_that_is_killed_loses_nothing(tmp_path, cluster, alone, victim) -> None:
    def kill() -> None:
        (hosts() if victim == "actor" else engines())[0].send_signal(signal.SIGKILL)

    results, found, steps = run(tmp_path, cluster.address, once(kill))
    assert found == first_of(alone)
    assert results["places_lost"] == (victim == "actor")
    assert results["engine_starts"] >= REPLICAS
    # What was in hand, and what was said within one question for messages.
    assert wasted(steps, results) <= 2 * AT_A_TIME * MOST_TOKENS


def test_a_raylet_that_is_killed_takes_its_replicas_with_it_and_nothing_else(
    tmp_path, cluster, alone
) -> None:
    results, found, _ = run(tmp_path, cluster.address, once(lambda: cluster.signal_raylet(0)), LONG)
    assert found == alone
    assert results["places_lost"] == 2


def test_a_node_that_is_taken_away_hands_over_what_it_has(tmp_path, cluster, alone) -> None:
    results, found, steps = run(tmp_path, cluster.address, once(lambda: cluster.end_node(0)))
    assert found == first_of(alone)
    assert results["places_lost"] == 2
    assert wasted(steps, results) <= 2 * 2 * AT_A_TIME * MOST_TOKENS


def test_a_node_that_comes_late_takes_part(tmp_path, started, alone) -> None:
    """All replicas of the only node die; the node that has come meanwhile goes on."""
    started.has(1)

    def change() -> None:
        started.add()
        started.end_node(0)

    results, found, steps = run(tmp_path, started.address, once(change))
    assert found == first_of(alone)
    # Ray may have put one that waited on the node while that ended.
    assert results["places_lost"] >= 2
    assert len({step["replica"] for step in steps}) > 2


def test_what_a_replica_says_after_it_was_given_up_is_dropped(tmp_path, cluster, alone) -> None:
    """An actor is silent for too long, its requests are answered by others, and then it goes on."""
    silent: list[psutil.Process] = []

    def stop() -> None:
        silent.append(hosts()[0])
        silent[0].suspend()

    first = once(stop)

    def disturb(seen: InferProgress) -> None:
        first(seen)
        if seen.answered > COUNT - 3 and silent and silent[0].is_running():
            silent[0].resume()

    results, found, _ = run(tmp_path, cluster.address, disturb)
    assert found == first_of(alone)
    assert results["places_lost"] == 1
    # It ends by itself: Ray is told to end it, and nobody asks for its messages.
    gone, alive = psutil.wait_procs(silent, timeout=60)
    assert (len(gone), alive) == (1, [])


def test_a_driver_that_is_killed_and_started_again_answers_the_rest(tmp_path, cluster, alone) -> None:
    write_lines(tmp_path / "logs", "a.jsonl", LINES[:COUNT])
    command = [
        *(sys.executable, "-m", "flows.cli", "run", "--source", str(tmp_path / "logs")),
        *("--store", str(tmp_path / "store"), "--model", str(DEMO_MODEL), "--job", "t", "--device", "cpu"),
        *("--run-date", "2026-11-22", "--ray", cluster.address, "--replicas", str(REPLICAS), "--json"),
        *("--max-sequences", str(AT_A_TIME), "--lease-s", "5", "--heartbeat-s", "1", "--part-answers", "5"),
        *("--catalog", "none", "--kv-tokens", "4096"),
    ]
    with (tmp_path / "said").open("wb") as said:
        first = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        parts = tmp_path / "store"
        deadline = time.monotonic() + 120
        while not list(parts.rglob("outputs*.parquet")) and first.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "said").read_text()[-2000:]
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    request = night_request(tmp_path, max_sequences=AT_A_TIME)
    with opened(request, tmp_path / "scratch") as night:
        assert outputs_of(night) == first_of(alone)
