"""Real text as requests: 5-shot MMLU prompts, and requests with long answers."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pyarrow.parquet as pq

from tests.support.demo_nights import batch_line
from tests.support.paths import trace

LETTERS = "ABCD"


def question(row: dict, *, solved: bool) -> str:
    choices = "".join(f"\n{letter}. {row[f'choice{i}']}" for i, letter in enumerate(LETTERS))
    return f"{row['question']}{choices}\nAnswer:" + (f" {LETTERS[row['answer']]}\n\n" if solved else "")


def mmlu_lines(
    subjects: int = 20, questions: int = 500, long_answers: int = 50, seed: int = 3, *, skip: int = 0
) -> list[str]:
    """Batch lines in random arrival order; every subject's questions share its five solved examples.

    Of each subject the first `skip` questions are left out.
    """
    rows: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in pq.read_table(trace("mmlu.parquet")).to_pylist():
        rows[row["subject"]][row["split"]].append(row)
    lines = []
    for subject in sorted(rows)[:subjects]:
        shots = "".join(question(row, solved=True) for row in rows[subject]["dev"])
        for i, row in enumerate(rows[subject]["test"][skip : skip + questions // subjects]):
            text = f"{subject.replace('_', ' ')}\n\n{shots}{question(row, solved=False)}"
            tag = {"workload": "mmlu"}
            lines.append(batch_line(f"{subject}-{i}", text, max_tokens=8, metadata=tag))
    for i in range(long_answers):
        settings = {"max_tokens": 150 + 5 * i, "ignore_eos": True, "metadata": {"workload": "long"}}
        lines.append(batch_line(f"long-{i}", f"Count from {i} to {300 + i}", **settings))
    return [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))]


def texts(lines: list[str]) -> dict[str, dict]:
    """custom_id -> body."""
    return {entry["custom_id"]: entry["body"] for entry in map(json.loads, lines)}
