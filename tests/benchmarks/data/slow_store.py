"""What an engine loses to a store whose writes take seconds, and to a Prefect server that dies in mid-run.

    python -m tests.benchmarks.data.slow_store [--quick] [--write] [--only store|server] [--pairs N]

The engine is one that takes a fixed time for every step and computes nothing, so what it loses is what it
waits for whoever takes its messages. Pairs of nights of equal requests are compared: step infer by itself,
undisturbed and with a store in which every write takes `write_s`; the whole night as a flow of a real Prefect
server, undisturbed and with the server killed after the first durable part. `*_lost` are shares of the
undisturbed one: of the time of all engine steps, and of the time from the begin of an attempt to its
publication. They are medians over the pairs, whose two nights take turns in being the first; `pairs` has what
each lost. All figures are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.infer.infer import infer
from tasks.plan.plan import plan
from tasks.runlog.log import RunLog
from tasks.runlog.numbered import NumberedRecords
from tasks.store.folder import FolderStore
from tests.benchmarks.lib.places import RESULTS, ROOT, processor
from tests.servers.debian import free_port
from tests.support import scripted_backend
from tests.support.demo_nights import DAY, batch_line, night_request, opened, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_S = 0.02
ANSWER_STEPS = 20
SEQUENCES = 16
PARTS = 4
END_S = 300.0


def write_logs(folder: Path, requests: int) -> None:
    """Write the day's requests."""
    lines = [batch_line(f"r{i}", f"Count from {i} to {i + 9}", max_tokens=24) for i in range(requests)]
    write_lines(folder / "logs", "day.jsonl", lines)


def played(folder: Path) -> None:
    """Have the engines of this process played by one with a fixed step time."""
    script = {"step_s": STEP_S, "answer_steps": ANSWER_STEPS}
    scripted_backend.use(pytest.MonkeyPatch(), folder / "script", **script)


def step_infer(folder: Path, requests: int, write_s: float) -> dict[str, Any]:
    """Run step infer of a night by itself, with `write_s` seconds in every write of the store."""
    write_logs(folder, requests)
    played(folder)
    asked = night_request(
        folder, max_sequences=SEQUENCES, part_answers=requests // PARTS, lease_s=600.0, heartbeat_s=60.0
    )
    writes: list[float] = []
    with opened(asked, folder / "scratch") as night, pytest.MonkeyPatch.context() as patched:
        plan(night)
        for name in ("put", "put_file", "put_if_absent"):
            patched.setattr(FolderStore, name, _slow(getattr(FolderStore, name), write_s, writes))
        begin = time.perf_counter()
        results = infer(night)
        seconds = time.perf_counter() - begin
        return {"writes": len(writes), "step_seconds": seconds, **_engine(results)}


def _slow(write: Any, seconds: float, writes: list[float]) -> Any:
    def slow(*arguments: Any) -> Any:
        writes.append(seconds)
        time.sleep(seconds)
        return write(*arguments)

    return slow


def _engine(results: dict[str, Any]) -> dict[str, Any]:
    return {name: results[name] for name in ("engine_seconds", "steps", "computed_answers")}


# ---- a flow, and its server --------------------------------------------------------------------------------


def flow(folder: Path, requests: int) -> None:
    """Run a night as a flow in this process."""
    from flows.nightly import nightly
    from flows.parameters.nightly import NightlyParameters

    played(folder)
    places = {"source": str(folder / "logs"), "store": str(folder / "store"), "model": str(DEMO_MODEL)}
    sizes = {"max_sequences": SEQUENCES, "part_answers": requests // PARTS, "kv_tokens": 4096}
    settings = {"device": "cpu", "report": False, "catalog": "none", "job": "bench"}
    nightly(NightlyParameters.parse({"run_date": DAY.isoformat(), **places, **sizes, **settings}))


@contextmanager
def prefect_server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """Run a Prefect server that has the limit of this machine; yields it, and the environment for it."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_PLUGINS_ENABLED": "true",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "prefect"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until(lambda: _healthy(api), "the server is up")
        limit = [*command, "gcl", "create", f"gpu:{socket.gethostname()}", "--limit", "1"]
        subprocess.run(limit, env=environment, check=True, stdout=subprocess.DEVNULL)
        yield server, environment
    finally:
        _kill(server)


def _kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_until(met: Any, what: str) -> None:
    end = time.monotonic() + END_S
    while not met():
        if time.monotonic() > end:
            raise SystemExit(f"waited {END_S:.0f} s in vain until {what}")
        time.sleep(0.2)


def night_as_flow(folder: Path, requests: int, *, killed: bool) -> dict[str, Any]:
    """Run a whole night as a flow, with the server killed after the first durable part if asked."""
    write_logs(folder, requests)
    with prefect_server(folder) as (server, environment), (folder / "flow.log").open("wb") as log:
        command = [sys.executable, "-m", "tests.benchmarks.data.slow_store", "--flow", str(folder)]
        night = subprocess.Popen(
            [*command, "--requests", str(requests)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            _wait_until(lambda: _parts(folder) > 0, "a part is durable")
            if killed:
                _kill(server)
            _wait_until(lambda: "publish" in _at(folder), "the night is published")
            if not killed:
                night.wait(END_S)
        finally:
            # What Prefect does after the night, in vain, is not measured.
            night.kill()
            night.wait()
    at = _at(folder)
    seconds = (at["publish"] - at["attempt"]).total_seconds()
    (results,) = [record.body.results for record in _records(folder) if _name(record) == "infer"]
    return {"night_seconds": seconds, "step_seconds": results["seconds"], **_engine(results)}


def _records(folder: Path) -> list[Any]:
    runs = list((folder / "store").glob("bench/runs/run_date=*/*/log"))
    if not runs:
        return []
    store = FolderStore(folder / "store")
    return NumberedRecords(store, str(runs[0].relative_to(folder / "store")), 0.0).read_all()


def _name(record: Any) -> str:
    return str(record.body.name) if record.kind == "step" else str(record.kind)


def _at(folder: Path) -> dict[str, datetime]:
    return {_name(record): datetime.fromisoformat(record.at) for record in _records(folder)}


def _parts(folder: Path) -> int:
    runs = list((folder / "store").glob("bench/runs/run_date=*/*"))
    if not runs:
        return 0
    log = RunLog(FolderStore(folder / "store"), str(runs[0].relative_to(folder / "store")))
    return len(log.refresh().parts_of("outputs"))


CASES: dict[str, tuple[str, ...]] = {
    "store": ("undisturbed", "slow_store"),
    "server": ("flow_undisturbed", "flow_server_killed"),
}
"""What is compared: the undisturbed night, and the other one."""
SHARES = {
    "engine_time_lost_slow_store": ("store", "engine_seconds"),
    "engine_time_lost_server_killed": ("server", "engine_seconds"),
    "night_time_lost_server_killed": ("server", "night_seconds"),
}
"""Result -> what is compared, and by which figure."""


def run_case(case: str, folder: Path, requests: int, write_s: float) -> dict[str, Any]:
    """Run a night of `CASES`."""
    folder.mkdir(parents=True)
    if case.startswith("flow"):
        found = night_as_flow(folder, requests, killed=case == "flow_server_killed")
    else:
        found = step_infer(folder, requests, write_s if case == "slow_store" else 0.0)
    print(case, json.dumps(found), flush=True)
    return found


def lost(disturbed: dict[str, Any], undisturbed: dict[str, Any], name: str) -> float:
    """Return by what share a time is longer than the undisturbed one."""
    return round(disturbed[name] / undisturbed[name] - 1.0, 4)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the requests, writes of 1 s")
    parser.add_argument("--requests", type=int)
    parser.add_argument("--write", action="store_true", help="write results/slow_store.json")
    parser.add_argument("--pairs", type=int, help="of nights (3; 1 with --quick)")
    parser.add_argument("--only", choices=CASES, help="the others keep the figures that they have")
    parser.add_argument("--flow", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    requests = options.requests or (400 if options.quick else 1600)
    if options.flow is not None:
        flow(options.flow, requests)
        return
    write_s = 1.0 if options.quick else 5.0
    pairs = options.pairs or (1 if options.quick else 3)
    load = [round(value, 2) for value in os.getloadavg()]
    place = RESULTS / ("slow_store-quick.json" if options.quick else "slow_store.json")
    results: dict[str, Any] = json.loads(place.read_text()) if options.only and place.exists() else {}
    with tempfile.TemporaryDirectory(prefix="nightblend-slow-") as name:
        chosen: list[str] = [options.only] if options.only else list(CASES)
        for what in chosen:
            nights: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES[what]}
            for pair in range(pairs):
                for case in CASES[what][:: -1 if pair % 2 else 1]:
                    folder = Path(name) / case / str(pair)
                    nights[case].append(run_case(case, folder, requests, write_s))
            update(results, what, nights)
            results.setdefault("where", {})[what] = {
                "label": "measured, with an engine of a fixed step time",
                "date": datetime.now(UTC).date().isoformat(),
                "machine": f"{processor()}, {os.cpu_count()} cores",
                "load_at_start": load,
                "requests": requests,
                **({"write_s": write_s} if what == "store" else {}),
            }
    print(json.dumps(results, indent=2))
    if options.write:
        place.write_text(json.dumps(results, indent=2) + "\n")


def update(results: dict[str, Any], what: str, nights: dict[str, list[dict[str, Any]]]) -> None:
    """Put the figures of all pairs of nights (case -> one of each pair) into the results."""
    undisturbed, disturbed = (nights[case] for case in CASES[what])
    for share, (of, figure) in SHARES.items():
        if of == what:
            each = [lost(*pair, figure) for pair in zip(disturbed, undisturbed, strict=True)]
            results[share] = round(statistics.median(each), 4)
            results.setdefault("pairs", {})[share] = each
    for case, found in nights.items():
        medians = {name: round(statistics.median(night[name] for night in found), 3) for name in found[0]}
        results.setdefault("cases", {})[case] = medians


if __name__ == "__main__":
    main()
