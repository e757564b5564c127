"""Engines and orders on this machine's CPU: ours, vLLM in process, and vLLM's own server as an endpoint.

    python -m tests.benchmarks.engine.compare [--rounds N] [--questions N] [--output FILE]

It is `nightblend compare` on 5-shot MMLU prompts and requests with long answers, with the demo's model in
float32, one thread each. vLLM's orders beside `blend` are scheduled by vLLM itself. Its server is one for all
runs and has the prompts of the last ones in its cache, a twentieth of all. It needs the environment that
`make test-vllm` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.compare.compare import compare
from tasks.compare.variants import Variant
from tests.benchmarks.lib.places import RESULTS, processor
from tests.servers.vllm_cpu import INSTALLED, PYTHON, SERVED, WHY, vllm_server
from tests.support.demo_nights import night_request, write_lines
from tests.support.mmlu import mmlu_lines
from tests.support.paths import DEMO_MODEL

SIZES = {"kv_tokens": 9216, "token_budget": 512, "max_sequences": 48}
LONG_ANSWERS = 40
ROW = ("engine", "version", "order", "tokens_per_second", "hit_rate", "equal_answers")
MORE = ("seconds", "preemptions", "mixed_steps", "peak_bytes")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--output", type=Path, default=RESULTS / "compare-cpu.json")
    options = parser.parse_args(arguments)
    if not INSTALLED.exists():
        raise SystemExit(WHY)
    # The engines and the server take it over from here.
    os.environ["OMP_NUM_THREADS"] = "1"
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), options.rounds, options.questions)
    report = {
        "machine": processor(),
        "load_at_start": load,
        "date": datetime.now(UTC).date().isoformat(),
        "model": DEMO_MODEL.parent.name,
        **{name: found[name] for name in ("requests", "prompt_tokens", "rounds")},
        "long_answers": LONG_ANSWERS,
        "sizes": SIZES,
        "rows": [{name: row[name] for name in (*ROW, *MORE)} for row in found["rows"]],
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in report["rows"]:
        print(row)
    return 0


def measure(scratch: Path, rounds: int, questions: int) -> dict[str, Any]:
    """Return the comparison, all engines with the same sizes."""
    lines = mmlu_lines(subjects=6, questions=questions, long_answers=LONG_ANSWERS)
    write_lines(scratch / "logs", "a.jsonl", lines)
    with vllm_server(DEMO_MODEL, scratch / "server.log", **SIZES) as server:
        eager, python = ("enforce_eager=true",), str(PYTHON)
        variants = [
            *(Variant("native", policy) for policy in ("blend", "fcfs")),
            *(Variant("vllm", policy, eager, python) for policy in ("blend", "fcfs", "dfs")),
            *(
                Variant("endpoint", policy, (f"url={server.url}", f"model={SERVED}"))
                for policy in ("blend", "fcfs")
            ),
        ]
        return compare(
            night_request(scratch, part_seconds=60.0, **SIZES),
            variants,
            scratch / "runs",
            rounds=rounds,
            sample=0,
            on_run=lambda number, one: print(f"round {number + 1}: {one.engine}, {one.policy}", flush=True),
        )


if __name__ == "__main__":
    raise SystemExit(main())
