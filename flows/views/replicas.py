"""What a person sees of several replicas: what each does now, and what each has done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PHASES: Final = {
    "starting": "is starting",
    "compiling": "compiles and computes its first step",
    "answering": "computes",
    "waiting": "has no engine now",
    "done": "is done",
}
"""Phase of `tasks.infer.replicas_now` -> words."""
_COLUMNS: Final = (
    *("replica", "steps", "prefill", "decode", "hit rate", "in steps s", "tail s"),
    "device s held",
)


def replica_rows(
    now: Iterable[Mapping[str, Any]], done: Iterable[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return a (name, value) row for each replica that computes now (`replicas_now`), or has computed."""
    rows = []
    for row in now:
        left = f", {row['left']:,} left" if row["left"] else ""
        rows.append((f"replica {row['replica']}", f"{_PHASES.get(row['phase'], row['phase'])}{left}"))
    for row in done:
        text = (
            f"{row['steps']:,} steps, {row['prefill_tokens']:,} prompt and {row['decode_tokens']:,} answer "
            f"tokens computed, {_seconds(row['gpu_seconds_held'])} held, {_ended(row['tail_seconds'])}"
        )
        rows.append((f"replica {row['replica']}", text))
    return rows


def replica_table(done: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return column names and rows of what each of several replicas did; no rows of one alone."""
    rows = [
        (
            str(row["replica"]),
            *(f"{row[name]:,}" for name in ("steps", "prefill_tokens", "decode_tokens")),
            "-" if row["hit_rate"] is None else f"{row['hit_rate']:.1%}",
            *(_number(row[name]) for name in ("engine_seconds", "tail_seconds", "gpu_seconds_held")),
        )
        for row in done
    ]
    return _COLUMNS, rows if len(rows) > 1 else []


def _ended(tail: float) -> str:
    return f"{tail:,.1f} s of tail" if tail >= 0.05 else "no tail"


def _seconds(value: float | None) -> str:
    return "unknown device seconds" if value is None else f"{value:,.1f} device seconds"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
