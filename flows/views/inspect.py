"""What a person sees of `nightblend inspect`: short tables on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flows.views.replicas import replica_table

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_inspection(result: dict[str, Any]) -> None:
    """Print the result of `tasks.report.inspect_run.inspect_run`."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{result['run']}: {result['status']}, policy {result['policy']}, device {result['device']}"
    )
    tree = result["tree"]
    if tree:
        console.print(
            f"{tree['requests']:,} requests, {tree['prompt_tokens']:,} prompt tokens, "
            f"{tree['distinct_tokens']:,} of them distinct, best hit rate {tree['hit_rate_optimum']:.1%}"
        )
    for title, columns, rows in tables_of(result):
        if rows:
            table = Table(title=title, title_justify="left", box=None, pad_edge=False)
            for i, name in enumerate(columns):
                table.add_column(name, justify="left" if i == 0 else "right")
            for row in rows:
                table.add_row(*row)
            console.print()
            console.print(table)


def tables_of(result: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Return (title, column names, rows) of each table, all as text."""
    prefixes = [
        (
            ", ".join(f"{name} {count:,}" for name, count in row["workloads"].items()),
            *_texts(row, ("tokens", "own_tokens", "requests", "saved_tokens")),
            f"{row['part_of_saved']:.1%}",
            _text(row["density"]),
        )
        for row in (result["tree"] or {"prefixes": []})["prefixes"]
    ]
    workloads = [
        (
            name,
            _text(row["count"]),
            _text(row["input_tokens"]["mean"]),
            _text(row["output_tokens"]["mean"]),
            *(_text(row["density"][q]) for q in ("p10", "p50", "p90")),
        )
        for name, row in result["workloads"].items()
    ]
    mix = ("steps", "prefill_tokens", "decode_tokens", "running", "compute_seconds", "memory_seconds")
    over_time = [
        (f"{row['from_s']:.1f} s", *_texts(row, (*mix, "density", "retractions"))) for row in result["mix"]
    ]
    known = ("requests", "expected", "actual", "mean_error", "mean_absolute_error")
    lengths = [(row["source"], *_texts(row, known)) for row in result["lengths"]]
    planned = [
        (name.replace("_", " "), *(_text(row[key]) for key in ("planned", "actual")))
        for name, row in result["planned"].items()
        if row["planned"] is not None or row["actual"] is not None
    ]
    return [
        ("Replicas", *replica_table(result["by_replica"])),
        (
            "Prefixes that save most",
            ("workloads", "tokens", "own", "requests", "saved", "of all", "density"),
            prefixes,
        ),
        ("Workloads", ("name", "requests", "in", "out", "density p10", "p50", "p90"), workloads),
        (
            "Mix over time",
            (
                "from",
                "steps",
                "prefill",
                "decode",
                "running",
                "compute s",
                "memory s",
                "density",
                "preempted",
            ),
            over_time,
        ),
        ("Answer lengths", ("source", "requests", "expected", "actual", "error", "abs. error"), lengths),
        ("Planned and actual (times by the cost model)", ("", "planned", "actual"), planned),
    ]


def _texts(row: dict[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_text(row[name]) for name in names)


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
