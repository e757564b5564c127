"""What a person sees of a night: progress on stderr, and a short table at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flows.views.bad_rows import bad_rows_text, exit_code_text
from flows.views.progress_text import DOING, LONG_S, Answering, share_of, so_far
from tasks.base.bad_rows import ERROR, QUARANTINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.base.progress import Amount
    from tasks.infer.progress import InferProgress

CALM_S: Final = 10.0
"""Seconds between two lines about progress where no terminal redraws one."""


class ConsoleReporter:
    """Shows progress on stderr: a bar on a terminal, else a calm line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._begun = self._told = time.monotonic()
        self._answering = Answering()

    def begin(self, step: str) -> None:
        """Show that a step begins."""
        self._begun = time.monotonic()
        # The first look at a long step comes when it has become one.
        self._told = self._begun - CALM_S + LONG_S
        if step == "infer":
            self._answering = Answering()
        if step == "infer" and self._console.is_terminal:
            self._put_up(step, "the engine is starting")
        else:
            self._console.print(f"{DOING.get(step, step)} ...")

    def goes_on(self, step: str, seconds: float, amount: Amount | None) -> None:
        """Show that a step takes long, and how long it still takes where that is known."""
        if seconds < LONG_S:
            return
        text = so_far(DOING.get(step, step), seconds, amount)
        if step == "infer" and self._answering.is_heard_of:
            waiting = self._answering.waiting_text()
            if waiting is None:
                return
            text = waiting
        if not self._console.is_terminal:
            self._say(text)
            return
        if self._progress is None:
            self._put_up(step, "")
        if amount is not None and step != "infer":
            self._draw(100 * share_of(amount), 100, text)
        else:
            self._draw(None, None, text)

    def end(self, step: str, results: object) -> None:
        """Show what came of a step."""
        self.close()
        text = _outcome(step, results)
        if text:
            self._console.print(f"  {text} ({time.monotonic() - self._begun:.1f} s)")

    def answered(self, progress: InferProgress) -> None:
        """Show how far step `infer` is."""
        text = self._answering.take(progress)
        if text is None:
            return
        if self._progress is not None:
            self._draw(progress.answered, progress.requests, text)
        else:
            self._say(text)

    def _put_up(self, step: str, text: str) -> None:
        columns = (BarColumn(), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._progress.add_task(step, total=None, text=text)
        self._progress.start()

    def _draw(self, done: float | None, total: float | None, text: str) -> None:
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total, text=text)

    def _say(self, text: str) -> None:
        if time.monotonic() - self._told >= CALM_S:
            self._told = time.monotonic()
            self._console.print(f"  {text}")

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
        ("exit code", exit_code_text(result["exit_code"])),
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
    told = result.get("bad_rows") or []
    more = [("error codes", bad_rows_text(told, ERROR)), ("quarantine", bad_rows_text(told, QUARANTINE))]
    rows[4:4] = [row for row in more if row[1]]
    if result.get("report_file"):
        rows.append(("report", result["report_file"]))
    if result.get("cost") is not None:
        place = next(i for i, (name, _) in enumerate(rows) if name == "prefix hits")
        rows.insert(place, ("cost", f"{result['cost']:,.4g} {result['currency']}"))
    if result.get("catalog"):
        rows.append(("tables", f"{', '.join(sorted(result['tables']))} in {result['catalog']}"))
    stage = result.get("canary")
    if stage is not None:
        rows.append(
            ("candidate", f"{stage['candidate']}, {stage['stage']}, {stage['percent']:g} % from now on")
        )
        rows.append(("", f"{stage['action']} by {stage['by']}: {stage['reason']}"))
    rows += promise_rows(result.get("promises") or ())
    if not result["published"]:
        rows.insert(2, ("published", "no, results are in the run directory only"))
    return rows


def promise_rows(promises: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return a row for each promise to a tenant: whether it was kept."""
    rows = list(promises)
    if not rows:
        return []
    # Most nights do without the pages of reports.
    from tasks.report.promises import promise_text

    return [("" if i else "promises", promise_text(row)) for i, row in enumerate(rows)]


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
        chosen = results.get("choice")
        order = results["policy"] if chosen is None else chosen["text"]
        return f"{order}: {results['remaining']} requests to compute"
    if step == "infer":
        return f"{results['output_tokens']:,} output tokens, hit rate {_share(results['hit_rate'])}"
    return ""


def _tokens(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,} tokens"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"
