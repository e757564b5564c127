"""What the blend gains on vLLM's own CPU build over `fcfs` and sorted prefixes, and what the simulator says.

    python -m tests.benchmarks.engine.blend_on_vllm [--rounds N] [--only NAME ...] [--write]

240 MMLU questions with five solved examples and 40 requests with long answers, with the demo's model in
float32, one thread, each order in a night of its own, with two sizes of the KV memory, in alternating rounds;
and the simulator's figures for the same requests and sizes, their true lengths known. Figures are medians
over the rounds. `--only` runs some of the rows, half a minute or a minute each and round, and keeps what is
stored of the others. `--write` stores the rows and renews the table of docs/engines.md. It needs the
environment that `make test-vllm` makes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest.mock import patch

import numpy as np

from engine.choices import COMBINED, LOGGED
from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.job.format import read_job
from engine.models.config import load_config
from engine.plan.policies import make_plan
from engine.runtime.settings import EngineSettings
from engine.simulate.simulate import TRACE, simulate
from tasks.plan import plan as planning
from tasks.plan.plan import FIRST_FOLDER
from tests.benchmarks.gpu.engine import LLAMA_8B
from tests.benchmarks.lib.places import RESULTS, ROOT, processor
from tests.servers.vllm_cpu import BLOCK, INSTALLED, PYTHON, WHY
from tests.support.demo_nights import answer, night_request, opened, write_lines
from tests.support.mmlu import mmlu_lines
from tests.support.paths import DEMO_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

KV_TOKENS: Final = (5120, 9216)
"""Too little for what may run at a time, and enough."""
STEP: Final = {"token_budget": 512, "max_sequences": 48}
QUESTIONS, LONG_ANSWERS = 240, 40
OUTPUT: Final = RESULTS / "blend-on-vllm.json"
PAGE: Final = ROOT / "docs" / "engines.md"
BEGIN: Final = "<!-- begin: python -m tests.benchmarks.engine.blend_on_vllm --write -->\n"
END: Final = "<!-- end -->\n"
SIMULATED: Final = "simulated"
DEVICES: Final = {"cpu": ("cpu", "demo"), "a100": ("a100", "8B")}
"""What the simulator models, by nominal figures: the CPU that the nights plan with; and a GPU, which computes
and reads memory side by side, with a model that is worth one. Name -> device, and model."""
POLICIES: Final = ("blend", "fcfs", "dfs")
FIGURES: Final = ("steps", "mixed_steps", "hit_rate", "preemptions", "recomputed_tokens", "seconds")
"""Of a row, that are measured."""


class Case(NamedTuple):
    """An order in vLLM: its policy, who schedules, and whether lengths are known or learnt on the way."""

    policy: str
    scheduling: str
    lengths: str
    kv_tokens: int


CASES: Final = {
    f"{name}-{kv}": Case(policy, scheduling, lengths, kv)
    for kv in KV_TOKENS
    for name, policy, scheduling, lengths in (
        ("learnt", "blend", "ours", "learnt"),
        ("known", "blend", "ours", "known"),
        ("fcfs", "fcfs", "plan", "learnt"),
        ("dfs", "dfs", "plan", "learnt"),
    )
}
NAMES: Final = [*CASES, SIMULATED]


class Answers(NamedTuple):
    """The answers of a night, by the names of the requests: tokens of each, and a digest of all."""

    lengths: list[int]
    digest: str

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> Answers:
        """Return those of rows of the outputs."""
        ids = [row["token_ids"] for row in sorted(rows, key=lambda row: str(row["custom_id"]))]
        return cls([len(one) for one in ids], hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16])

    def as_json(self) -> dict[str, str]:
        """Return them as they are stored."""
        return {"lengths": " ".join(map(str, self.lengths)), "digest": self.digest}

    @classmethod
    def from_json(cls, stored: dict[str, str] | None) -> Answers | None:
        """Read them as they are stored."""
        return (
            None if stored is None else cls([int(one) for one in stored["lengths"].split()], stored["digest"])
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows, print them, and store them if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if not INSTALLED.exists():
        raise SystemExit(WHY)
    # vLLM takes it over from here.
    os.environ["OMP_NUM_THREADS"] = "1"
    kept = json.loads(OUTPUT.read_text()) if options.only and OUTPUT.exists() else {}
    rows: dict[str, dict[str, Any]] = kept.get("rows", {})
    wanted = options.only or NAMES
    cases = [name for name in wanted if name in CASES]
    found, answers = measured(cases, options.rounds, Answers.from_json(kept.get("answers")))
    rows |= found
    if SIMULATED in wanted:
        if answers is None:
            raise SystemExit(f"{SIMULATED}: needs the lengths of answers; run another row with it")
        with tempfile.TemporaryDirectory() as scratch:
            rows |= simulated(Path(scratch), answers)
    order = [*CASES, *simulated_names()]
    report = {
        "machine": processor(),
        "date": datetime.now(UTC).date().isoformat(),
        "model": DEMO_MODEL.parent.name,
        "requests": QUESTIONS + LONG_ANSWERS,
        "sizes": STEP,
        "rows": {name: rows[name] for name in order if name in rows},
        "answers": None if answers is None else answers.as_json(),
    }
    if options.write:
        OUTPUT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        made = before + BEGIN + table(report["rows"]) + END + rest.split(END, 1)[1]
        PAGE.write_text(made, encoding="utf-8")
    print(table(report["rows"]))
    return 0


def measured(
    cases: Sequence[str], rounds: int, answers: Answers | None
) -> tuple[dict[str, dict[str, Any]], Answers | None]:
    """Run cases in turn, every other round backwards.

    Parameters
    ----------
    answers
        Those of earlier runs, which all have to be equal to.

    Returns
    -------
    tuple
        Name -> medians over the rounds, with the seconds and loads of each; and the answers.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in cases if number % 2 == 0 else reversed(cases):
            if answers is None and CASES[name].lengths == "known":
                raise SystemExit(f"{name}: needs the lengths of answers; run another row before it")
            with tempfile.TemporaryDirectory() as scratch:
                row, given = in_vllm(Path(scratch), CASES[name], answers)
            if answers is not None and given != answers:
                raise SystemExit(f"{name}: its answers are not those of the others")
            answers = given
            runs[name].append(row)
            print(f"round {number + 1}: {name}", row, flush=True)
    return {name: medians(found) for name, found in runs.items()}, answers


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the figures of a row, and what its runs took."""
    row = {name: statistics.median(run[name] for run in runs) for name in FIGURES}
    each = {name: [round(run[name], 2) for run in runs] for name in ("seconds", "load_at_start")}
    named = {name: value for name, value in runs[0].items() if name not in {*FIGURES, *each}}
    return {**named, **row, "runs": each}


def in_vllm(root: Path, case: Case, before: Answers | None) -> tuple[dict[str, Any], Answers]:
    """Run a night in vLLM; return its figures and its answers, whose lengths are those `before` if known."""
    load = round(os.getloadavg()[0], 1)
    write_lines(root / "logs", "a.jsonl", lines())
    request = night_request(
        root,
        engine="vllm",
        engine_python=str(PYTHON),
        engine_options=("enforce_eager=true", f"scheduling={case.scheduling}"),
        policy=case.policy,
        lengths=COMBINED if case.lengths == "learnt" else LOGGED,
        part_answers=1000,
        kv_tokens=case.kv_tokens,
        **STEP,
    )
    logged = nullcontext() if before is None else in_the_log(before)
    with logged, opened(request, root / "scratch") as night:
        results = answer(night)
        outputs, steps = (night.read_table(name).to_pylist() for name in ("outputs", "steps"))
    mixed = [step["prefill_tokens"] > 0 and step["decode_tokens"] > 0 for step in steps]
    row = {
        "kv_tokens": case.kv_tokens,
        "order": case.policy,
        "scheduled_by": "us" if case.scheduling == "ours" else "vLLM",
        "lengths": case.lengths if case.scheduling == "ours" else None,
        "steps": results["steps"],
        "mixed_steps": float(np.mean(mixed)),
        "hit_rate": results["hit_rate"],
        "preemptions": results["retractions"],
        "recomputed_tokens": results["recomputed_tokens"],
        "seconds": results["engine_seconds"],
        "load_at_start": load,
    }
    return row, Answers.of(outputs)


def lines() -> list[str]:
    """Return the requests."""
    return mmlu_lines(subjects=6, questions=QUESTIONS, long_answers=LONG_ANSWERS)


def names() -> list[str]:
    """Return the names of the requests."""
    return [json.loads(line)["custom_id"] for line in lines()]


def limits() -> list[int]:
    """Return the most tokens of each answer."""
    return [json.loads(line)["body"]["max_tokens"] for line in lines()]


def in_line_order(answers: Answers) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the lengths of the answers in the order of the requests, float64 [requests]."""
    given = names()
    of = dict(zip(sorted(given), answers.lengths, strict=True))
    return np.array([of[name] for name in given], np.float64)


def in_the_log(answers: Answers) -> AbstractContextManager[Any]:
    """Return a context in which nights know how long their answers will be, as from a log of them."""
    lengths = in_line_order(answers)

    def known(_logged: object, limit: np.ndarray[Any, Any], _group: object) -> tuple[Any, None]:
        if (lengths > limit).any():
            raise SystemExit("the requests are not in the order of the lines")
        return lengths, None

    return patch.object(planning, "estimate_lengths", known)


def simulated_names() -> list[str]:
    """Return the names of the simulator's rows."""
    return [
        f"{SIMULATED}-{name}-{policy}-{kv}" for kv in KV_TOKENS for name in DEVICES for policy in POLICIES
    ]


def simulated(root: Path, answers: Answers) -> dict[str, dict[str, Any]]:
    """Return the simulator's figures for the same requests and sizes, in each order."""
    write_lines(root / "logs", "a.jsonl", lines())
    request = night_request(root, page_size=BLOCK, kv_tokens=KV_TOKENS[0], **STEP)
    with opened(request, root / "scratch") as night:
        planning.plan(night)
        job = read_job(night.scratch / FIRST_FOLDER)
    output = in_line_order(answers).astype(np.int32)
    if len(output) != len(job.request_ids):
        raise SystemExit("some requests share an answer, so their lengths are not in the order of the lines")
    shapes = {"demo": ModelShape.of(load_config(DEMO_MODEL)), "8B": ModelShape.of(LLAMA_8B, 2)}
    found = {}
    for name, (device, model) in DEVICES.items():
        shape = shapes[model]
        cost = step_cost(shape, NOMINAL[device])
        for policy in POLICIES:
            plan = make_plan(policy, job.tokens, job.offsets, output * 1.0, shape, NOMINAL[device], seed=0)
            for kv_tokens in KV_TOKENS:
                sizes = kv_tokens, BLOCK, STEP["token_budget"], STEP["max_sequences"]
                settings = EngineSettings(*sizes, pacing=policy == "blend")
                run = simulate(plan, job.tokens, job.offsets, output, settings, cost, record=True)
                if run.trace is None:
                    raise SystemExit("the simulator has recorded nothing")
                both = [run.trace[:, TRACE.index(one)] > 0 for one in ("prefill_tokens", "decode_tokens")]
                found[f"{SIMULATED}-{name}-{policy}-{kv_tokens}"] = {
                    "kv_tokens": kv_tokens,
                    "order": policy,
                    "scheduled_by": f"{SIMULATED}, {model} on {device}",
                    "lengths": "known",
                    "steps": run.steps,
                    "mixed_steps": float(np.mean(both[0] & both[1])),
                    "hit_rate": run.hit_rate,
                    "preemptions": run.preemptions,
                    "recomputed_tokens": run.recomputed_tokens,
                    "seconds": run.seconds,
                }
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as a table of Markdown."""
    columns = (
        *("KV memory", "order", "scheduled by", "lengths", "steps", "mixed", "hit rate", "preempted"),
        *("computed twice", "seconds"),
    )
    text = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows.values():
        modelled = row["scheduled_by"].startswith(SIMULATED)
        seconds = f"{row['seconds']:.3g}, modelled" if modelled else f"{row['seconds']:.1f}"
        text.append(
            f"| {row['kv_tokens']:,} tokens | `{row['order']}` | {row['scheduled_by']} "
            f"| {row['lengths'] or ''} | {row['steps']:.0f} | {100 * row['mixed_steps']:.0f} % "
            f"| {100 * row['hit_rate']:.1f} % | {row['preemptions']:.0f} "
            f"| {row['recomputed_tokens']:,.0f} | {seconds} |"
        )
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
