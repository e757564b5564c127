"""What a person sees of `nightblend status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from flows.views.bad_rows import bad_rows_text, exit_code_text
from flows.views.console import promise_rows
from flows.views.date_table import duration
from flows.views.replicas import replica_rows
from tasks.base.bad_rows import ERROR, QUARANTINE
from tasks.infer.progress import AtRisk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.operations.dates import DateView


def print_status(found: dict[str, Any]) -> None:
    """Print how a date stands, as `tasks.operations.status.date_status` returns it."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name, value in rows_of(found):
        console.print(f"{name:<16}{value}")
    console.print()
    console.print(found["next"])
    if found["next_command"] is not None:
        console.print(f"    {found['next_command']}")


def rows_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return it as (name, value) rows; what is not known is left out."""
    rows = [
        ("job, date", f"{found['job']}, {found['run_date']}"),
        ("status", found["status"] + (f", at step {found['step']}" if found["step"] else "")),
        ("published", found["output_file"] or found["published"] or "no"),
    ]
    if found["run_dir"] is not None:
        rows.append(("run", found["run_dir"]))
        rows.append(("attempts", f"{found['attempts']}, epoch {found['epoch']}, policy {found['policy']}"))
    if found["order"] is not None:
        rows.append(("order", found["order"]))
    if found["owner"] is not None:
        rows.append(("owner", f"{found['owner']}, last sign of life {duration(found['silence_s'])} ago"))
    if found["stop_requested"]:
        rows.append(("stop", "it was asked to stop and does so at its next durable part"))
    if found["total"] is not None:
        share = f" ({found['done'] / found['total']:.0%})" if found["total"] else ""
        rows.append(("answered", f"{found['done']:,} of {found['total']:,}{share}"))
    rows += _bad_rows(found)
    if found["part_age_s"] is not None:
        rows.append(("last part", f"{duration(found['part_age_s'])} ago"))
    if found["eta_s"] is not None:
        rows.append(("ready in", f"about {duration(found['eta_s'])}"))
    if found["last_error"] is not None:
        rows.append(("last error", found["last_error"]))
    if found["exit_code"] is not None:
        rows.append(("exit code", exit_code_text(found["exit_code"])))
    rows += replica_rows(found.get("replicas_now") or (), found.get("by_replica") or ())
    rows += promise_rows(found.get("promises") or ())
    rows += [("at risk", AtRisk(**risk).text()) for risk in found.get("promises_at_risk") or ()]
    stage = found.get("canary")
    if stage is not None:
        rows.append(("candidate", f"{stage['candidate']}, {stage['stage']}, {stage['percent']:g} %"))
        rows.append(("", f"{stage['action']} by {stage['by']}: {stage['reason']}"))
    return rows


def _bad_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, count, kind in (("errors", "errors", ERROR), ("quarantine", "quarantined", QUARANTINE)):
        if found[count]:
            codes = bad_rows_text(found["bad_rows"] or [], kind)
            rows.append((name, f"{found[count]:,}" + (f": {codes}" if codes else "")))
    return rows


def print_dates(views: Iterable[DateView]) -> None:
    """Print a line per date."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for view in views:
        said = view.current.publication_id if view.current is not None else "nothing published"
        console.print(f"{view.run_date.isoformat()}  {view.status.value:<8}  {said}")
