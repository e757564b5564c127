"""Write a day of OpenAI Batch request logs whose answers are known.

The three tasks are mixed with length profiles of real traces (`lengths.csv`): the texts of `find` follow the
prompt lengths of the code trace, the spans of `count` its conversation trace's output lengths, both scaled
down to what the demo's model was trained on. Some lines are broken on purpose, as in any real export.

    python infra/demo/write_logs.py .demo/logs --run-date 2026-11-22 --requests 600
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import questions as q

MODEL = "nightblend-demo"
LENGTHS = Path(__file__).parent / "lengths.csv"
# The longest prompt of the code trace and the longest usual output of the conversation trace.
CODE_PROMPT_TOKENS = 7437
CONVERSATION_OUTPUT_TOKENS = 1000
FILES = 3
SHARES = {"pick": 0.5, "find": 0.25, "count": 0.25}
COMPLETION_SHARE = 0.1
SAMPLED_SHARE = 0.02
MAX_TOKENS = {"pick": 8, "find": 16, "count": 512}

Answers = dict[str, dict[str, str]]


@cache
def read_lengths(trace: str) -> list[tuple[int, int]]:
    """Read the (prompt, output) lengths in tokens of one trace, `code` or `conversation`."""
    with LENGTHS.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        chosen = [row for row in rows if row["trace"] == trace]
    return [(int(row["prompt_tokens"]), int(row["output_tokens"])) for row in chosen]


def draw_question(rng: random.Random, task: str) -> q.Question:
    """Draw a question of a task with a length from the traces."""
    if task == "find":
        share = rng.choice(read_lengths("code"))[0] / CODE_PROMPT_TOKENS
        return q.find(rng, max(q.SHORTEST_TEXT, min(q.LONGEST_TEXT, round(share * q.LONGEST_TEXT))))
    if task == "count":
        share = rng.choice(read_lengths("conversation"))[1] / CONVERSATION_OUTPUT_TOKENS
        return q.count(rng, max(2, min(q.LONGEST_COUNT, round(share * q.LONGEST_COUNT))))
    return q.pick(rng)


def request(custom_id: str, question: q.Question, rng: random.Random) -> dict[str, Any]:
    """Make one request line of a question; some are plain completions, a few are sampled with a seed."""
    plain = rng.random() < COMPLETION_SHARE
    body: dict[str, Any] = {"model": MODEL}
    if plain:
        body["prompt"] = question.completion_prompt
    else:
        body["messages"] = question.messages
    body |= {"max_tokens": MAX_TOKENS[question.task], "temperature": 0}
    if rng.random() < SAMPLED_SHARE:
        body |= {"temperature": 0.7, "top_p": 0.9, "seed": rng.randrange(2**31)}
    body["metadata"] = {"workload": question.task}
    url = "/v1/completions" if plain else "/v1/chat/completions"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def odd_lines(rng: random.Random, part: int, lines: list[str]) -> list[str]:
    """Make what a real export also holds: repeats and blank lines, and in the first part lines with a fault.

    Among 600 requests the faults stay under one in a hundred, which a night tolerates by default.
    """
    made = [rng.choice(lines), ""]
    if part == 0:
        good = request("broken", q.pick(rng), random.Random(0))
        with_tools = good["body"] | {"tools": [{"type": "web_search"}]}
        conflict = json.loads(rng.choice(lines))
        conflict["body"]["max_tokens"] += 1
        made += [
            json.dumps(good | {"custom_id": "broken-url", "url": "/v1/moderations"}),
            json.dumps(good | {"custom_id": "broken-tools", "body": with_tools}),
            json.dumps({"custom_id": "broken-no-body", "method": "POST", "url": "/v1/chat/completions"}),
            json.dumps(conflict),
            json.dumps(good)[: rng.randint(20, 120)],
        ]
    return made


def write_logs(folder: Path, run_date: date, seed: int = 0, requests: int = 600) -> Answers:
    """Write the request logs of a day under `folder`, in `YYYY/MM/DD/batch-NN.jsonl`.

    Parameters
    ----------
    folder
        Root of the logs; files of the same names are overwritten.
    run_date
        The day, which becomes the path.
    seed
        Source of all randomness: equal arguments give equal bytes.
    requests
        Count of good requests, broken lines and repeats not counted; at least `FILES`.

    Returns
    -------
    Answers
        custom_id -> `{"task", "answer", "sampled"}` of every good request; `sampled` is `"yes"` where the
        request asks for sampling, so that another answer is no fault.

    Raises
    ------
    ValueError
        If `requests` is below `FILES`.
    """
    if requests < FILES:
        raise ValueError(f"requests must be at least {FILES}")
    rng = random.Random(f"logs {run_date.isoformat()} {seed}")
    day = folder / f"{run_date:%Y/%m/%d}"
    day.mkdir(parents=True, exist_ok=True)
    parts: list[list[str]] = [[] for _ in range(FILES)]
    answers: Answers = {}
    for index in range(requests):
        question = draw_question(rng, rng.choices(list(SHARES), list(SHARES.values()))[0])
        custom_id = f"{question.task}-{index:05d}"
        line = request(custom_id, question, rng)
        parts[index % FILES].append(json.dumps(line))
        sampled = "yes" if line["body"]["temperature"] else "no"
        answers[custom_id] = {"task": question.task, "answer": question.answer, "sampled": sampled}
    for part, lines in enumerate(parts):
        # Behind all good lines: the first line of a custom_id counts, and that must be the good one.
        text = "\n".join([*lines, *odd_lines(rng, part, lines)]) + "\n"
        (day / f"batch-{part:02d}.jsonl").write_text(text, encoding="utf-8")
    return answers


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write a day of request logs with known answers.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run-date", type=date.fromisoformat, required=True, help="YYYY-MM-DD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--answers", type=Path, help="default: answers.json beside the folder")
    arguments = parser.parse_args()
    answers = write_logs(arguments.folder, arguments.run_date, arguments.seed, arguments.requests)
    path = arguments.answers or arguments.folder.parent / "answers.json"
    path.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    print(f"{len(answers)} requests under {arguments.folder}, their answers in {path}")


if __name__ == "__main__":
    main()
