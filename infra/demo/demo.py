"""One night on one day of made-up request logs: writes the logs, runs the nightly flow, checks the answers.

    python infra/demo/demo.py [--model FOLDER_OR_HUB_ID] [--rerun]

Everything it makes lies under `.demo`. A second run finds the night finished and shows its results again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from write_logs import Answers, write_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUN_DATE = date(2026, 1, 15)
REQUESTS = 600
# About 7 % of the demo's prompt tokens, six times its longest request: prefixes have to be given up.
KV_TOKENS = 8192
# The logs hold some broken lines on purpose, as many as this allows.
MAX_BAD_FRACTION = 0.05
SHOWN_PER_TASK = {"pick": 1, "find": 1, "count": 2}
QUESTION_SHOWN = 64


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return an exit code of the command line."""
    options = _options(arguments)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    folder: Path = options.folder.resolve()
    logs, store = folder / "logs", folder / "store"
    console.print(f"writing {options.requests} requests of {RUN_DATE} to {logs}")
    answers = write_logs(logs, RUN_DATE, requests=options.requests)
    (folder / "answers.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    model = options.model or _own_model(folder / "model")

    console.print(f"running the night with {model}")
    console.print("(Prefect starts its API inside this process first, about 10 seconds)")
    begin = time.monotonic()
    result, code = _run(logs, store, model, folder, rerun=options.rerun)
    if result is None:
        return code
    summary = json.loads(Path(result["summary_file"]).read_text(encoding="utf-8"))
    given = dict(_given(Path(result["output_file"])))

    console.print()
    console.print(_figures(result, summary, time.monotonic() - begin))
    console.print(_per_task(summary, answers, given))
    console.print("Some questions and what the model answered:")
    _show_questions(console, logs, answers, given)
    _show_places(console, result, folder)
    if result["reused"]:
        console.print(
            "\nThis night was finished before, so nothing was computed: the results are those of the earlier "
            "run.\nTo compute it again: make demo RERUN=1"
        )
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write a day of request logs and run the nightly flow on it."
    )
    parser.add_argument("--model", help="a Hugging Face model folder or hub id in place of the demo's own")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where everything goes")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--rerun", action="store_true", help="compute again although it is finished")
    return parser.parse_args(arguments)


def _own_model(folder: Path) -> str:
    shutil.copytree(HERE / "model", folder, dirs_exist_ok=True)
    return str(folder)


def _run(
    logs: Path, store: Path, model: str, folder: Path, *, rerun: bool
) -> tuple[dict[str, Any] | None, int]:
    # The demo leaves a configured server and its database alone.
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    os.environ.pop("PREFECT_API_URL", None)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    from flows.cli import explain
    from flows.nightly import nightly
    from flows.parameters.nightly import NightlyParameters

    try:
        parameters = NightlyParameters.parse(
            {
                "job": "demo",
                "source": f"{logs}/{{run_date:%Y/%m/%d}}/",
                "store": str(store),
                "model": model,
                "run_date": RUN_DATE,
                "policy": "blend",
                "kv_tokens": KV_TOKENS if model == str(folder / "model") else None,
                "max_bad_fraction": MAX_BAD_FRACTION,
                "rerun": rerun,
            }
        )
        return nightly(parameters), 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - as the command line ends
        return None, explain(error)


def _given(output_file: Path) -> Iterator[tuple[str, str]]:
    """Yield (custom_id, answer) of the published answers."""
    with output_file.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            choice = row["response"]["body"]["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            yield row["custom_id"], text.strip()


def _figures(result: dict[str, Any], summary: dict[str, Any], seconds: float) -> Table:
    table = Table(title=f"The night of {result['run_date']}", title_justify="left", show_header=False)
    rate = result["tokens_per_second"]
    compute, memory = (summary[f"modelled_{name}_seconds"] or 0.0 for name in ("compute", "memory"))
    rows = [
        ("status", result["status"]),
        ("requests", f"{result['requests']} = {result['outputs']} outputs + {result['errors']} errors"),
        ("broken lines set aside", str(result["quarantined"])),
        ("tokens", f"{result['input_tokens']:,} in, {result['output_tokens']:,} out"),
        ("speed", f"{rate:,.0f} tokens/s over {result['seconds']:.1f} s" if rate else "nothing computed"),
        (
            "prompt tokens from the cache",
            f"{result['hit_rate'] or 0:.1%} (with unlimited memory {result['hit_rate_optimum'] or 0:.1%})",
        ),
        ("tokens computed twice", f"{result['recomputed_tokens'] or 0:,}"),
        ("KV pages given up, requests put back", f"{summary['evicted_pages']:,}, {summary['retractions']:,}"),
        ("modelled compute, memory time", f"{compute:.1f} s, {memory:.1f} s"),
        ("this command took", f"{seconds:.1f} s"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _per_task(summary: dict[str, Any], answers: Answers, given: dict[str, str]) -> Table:
    table = Table(title="How many answers are right", title_justify="left")
    for name in ("task", "right", "of", "share"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task in sorted({known["task"] for known in answers.values()}):
        # A sampled answer may differ and be no fault.
        asked = {
            key: known["answer"]
            for key, known in answers.items()
            if known["task"] == task and known["sampled"] == "no"
        }
        right = sum(given.get(key) == answer for key, answer in asked.items())
        table.add_row(task, str(right), str(len(asked)), f"{right / len(asked):.1%}" if asked else "")
    reasons = summary["finish_reasons"]
    ended = ", ".join(f"{count} by {reason}" for reason, count in reasons.items())
    table.caption = f"Answers ended: {ended}. Sampled requests are not counted."
    table.caption_justify = "left"
    return table


def _show_questions(console: Console, logs: Path, answers: Answers, given: dict[str, str]) -> None:
    chosen = []
    for task, count in SHOWN_PER_TASK.items():
        # Short ones fit a line.
        keys = [key for key, known in answers.items() if known["task"] == task and known["sampled"] == "no"]
        chosen += sorted(keys, key=lambda key: len(answers[key]["answer"]))[:: max(1, len(keys) // count)][
            :count
        ]
    prompts = _prompts(logs, set(chosen))
    for key in chosen:
        right = given.get(key) == answers[key]["answer"]
        console.print(f"\n  {_shorten(prompts[key])}")
        console.print(f"    {'right' if right else 'WRONG'}: {_shorten(given.get(key, '(no answer)'))}")
        if not right:
            console.print(f"    expected: {_shorten(answers[key]['answer'])}")


def _prompts(logs: Path, wanted: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(logs.glob(f"{RUN_DATE:%Y/%m/%d}/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                body = row["body"]
            except (ValueError, KeyError, TypeError):
                continue
            if row.get("custom_id") in wanted:
                text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
                found.setdefault(row["custom_id"], text)
    return found


def _shorten(text: str) -> str:
    """Show the two ends of a text on one line."""
    text = " ".join(text.split())
    if len(text) <= 2 * QUESTION_SHOWN:
        return text
    return f"{text[:QUESTION_SHOWN]} ... {text[-QUESTION_SHOWN:]}"


def _show_places(console: Console, result: dict[str, Any], folder: Path) -> None:
    console.print("\nWhere everything is:")
    places = {
        "request logs": folder / "logs",
        "right answers": folder / "answers.json",
        "store": folder / "store",
        "run directory": result["run_dir"],
        "answers": result["output_file"],
        "errors": result["error_file"],
        "figures": result["summary_file"],
    }
    for name, place in places.items():
        console.print(f"  {name:<15}{place}")


if __name__ == "__main__":
    sys.exit(main())
