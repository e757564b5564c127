"""What a person sees of a night: progress on stderr, and a short table at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.infer.progress import InferProgress

CALM_S: Final = 10.0
"""Seconds between two lines about progress where no terminal redraws one."""

DOING: Final = {
    "extract": "reading requests",
    "tokenize": "tokenising prompts",
    "profile": "profiling requests",
    "plan": "planning the order",
    "infer": "answering",
    "publish": "checking and publishing",
}


class ConsoleReporter:
    """Shows progress on stderr: a bar on a terminal, else a calm line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._begun = self._told = time.monotonic()

    def begin(self, step: str) -> None:
        """Show that a step begins."""
        self._begun = self._told = time.monotonic()
        if step == "infer" and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
            )
            speed = TextColumn("{task.fields[speed]}")
            self._progress = Progress(
                *columns, speed, TimeElapsedColumn(), console=self._console, transient=True
            )
            self._progress.add_task(DOING[step], total=None, speed="engine is starting")
            self._progress.start()
        else:
            self._console.print(f"{DOING.get(step, step)} ...")

    def end(self, step: str, results: object) -> None:
        """Show what came of a step."""
        self.close()
        text = _outcome(step, results)
        if text:
            self._console.print(f"  {text} ({time.monotonic() - self._begun:.1f} s)")

    def answered(self, progress: InferProgress) -> None:
        """Show how far step `infer` is."""
        rate = (progress.output_tokens or 0) / progress.seconds if progress.seconds else 0.0
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(
                task, completed=progress.answered, total=progress.requests, speed=f"{rate:,.0f} tokens/s"
            )
        elif time.monotonic() - self._told >= CALM_S:
            self._told = time.monotonic()
            self._console.print(f"  {progress.answered} of {progress.requests}, {rate:,.0f} output tokens/s")

    def close(self) -> None:
        """Take the bar away, also after an error."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def rows_of(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the result of a night as (name, value) rows for people."""
    rate = result["tokens_per_second"]
    rows = [
        ("job, date", f"{result['job']}, {result['run_date']}"),
        ("status", result["status"] + (" (finished before, nothing computed)" if result["reused"] else "")),
        ("requests", f"{result['requests']:,} = {result['outputs']:,} outputs + {result['errors']:,} errors"),
        ("set aside", f"{result['quarantined']:,} quarantined, {result['filtered']:,} filtered"),
        ("tokens", f"{result['input_tokens']:,} in, {result['output_tokens']:,} out"),
        ("time", f"{result['seconds']:.1f} s" + (f", {rate:,.0f} tokens/s" if rate is not None else "")),
        ("prefix hits", f"{_share(result['hit_rate'])} (optimum {_share(result['hit_rate_optimum'])})"),
        ("computed twice", _tokens(result["recomputed_tokens"])),
        ("run", result["run_dir"]),
        ("answers", result["output_file"]),
        ("errors", result["error_file"]),
    ]
    if result.get("report_file"):
        rows.append(("report", result["report_file"]))
    if result.get("cost") is not None:
        rows.insert(6, ("cost", f"{result['cost']:,.4g} {result['currency']}"))
    if result.get("catalog"):
        rows.append(("tables", f"{', '.join(sorted(result['tables']))} in {result['catalog']}"))
    if not result["published"]:
        rows.insert(2, ("published", "no, results are in the run directory only"))
    return rows


def print_table(result: Mapping[str, Any]) -> None:
    """Print the result of a night to stdout."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name, value in rows_of(result):
        console.print(f"{name:<16}{value}")


def _outcome(step: str, results: object) -> str:
    if step == "extract":
        extracted = getattr(results, "extracted", None)
        if extracted is None:
            return ""
        account = extracted.account
        return f"{extracted.run_date}: {account.requests} requests, {account.quarantined} quarantined"
    if not isinstance(results, dict):
        return ""
    if step == "tokenize":
        return f"{results['tokens']:,} prompt tokens"
    if step == "plan":
        return f"{results['policy']}: {results['remaining']} requests to compute"
    if step == "infer":
        return f"{results['output_tokens']:,} output tokens, hit rate {_share(results['hit_rate'])}"
    return ""


def _tokens(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,} tokens"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"
