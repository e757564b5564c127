"""When a candidate goes on, stays where it is, or is taken back: limits, and what a night says of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.night.request import Limits

LEAST: Final = 20
"""Requests of a side from which on its shares and means say something."""
LEAST_ERRORS: Final = 2
"""One request without an answer takes nothing back."""
CHANCE: Final = 3.0
"""Standard errors of a mean length that are taken for chance."""


def breaches(
    rows: Sequence[Mapping[str, Any]], limits: Limits, known: Mapping[str, float | None]
) -> list[str]:
    """Return which limits a candidate has broken, as sentences; none of a good night.

    Parameters
    ----------
    rows
        Of table `comparisons`: baseline, candidate.
    known
        `tokens_per_second` and `mean_output_tokens` of the baseline on an earlier night, for one on which it
        had nothing to do.
    """
    baseline, candidate = rows
    found = []
    if candidate["failure"]:
        found.append(f"it ended early: {candidate['failure']}")
    if candidate["requests"] >= LEAST:
        ours = baseline["errors"] / baseline["requests"] if baseline["requests"] >= LEAST else 0.0
        theirs = candidate["errors"] / candidate["requests"]
        if theirs > ours + limits.errors and candidate["errors"] >= LEAST_ERRORS:
            found.append(
                f"{theirs:.1%} of its requests have no answer, {ours:.1%} of the others "
                f"(at most {limits.errors:.1%} more)"
            )
    if candidate["outputs"] >= LEAST:
        speeds = _of_both(rows, known, "tokens_per_second")
        if speeds is not None and speeds[1] < (1.0 - limits.slower) * speeds[0]:
            found.append(
                f"{speeds[1]:,.0f} tokens/s instead of {speeds[0]:,.0f} (at most {limits.slower:.0%} slower)"
            )
        means = _of_both(rows, known, "mean_output_tokens")
        # Both sides answer different requests, so their means differ by chance, too.
        chance = CHANCE * (candidate["spread_output_tokens"] or 0.0) / candidate["outputs"] ** 0.5
        if means is not None and abs(means[1] - means[0]) > limits.lengths * means[0] + chance:
            most = f"at most {limits.lengths:.0%} off"
            found.append(f"answers of {means[1]:,.1f} tokens instead of {means[0]:,.1f} ({most})")
    if candidate["compared"] and candidate["normalised"] is not None:
        differing = 1.0 - candidate["normalised"]
        if differing > limits.differing:
            most = f"at most {limits.differing:.1%}"
            found.append(f"{differing:.1%} of {candidate['compared']:,} answers differ ({most})")
    return found


def _of_both(
    rows: Sequence[Mapping[str, Any]], known: Mapping[str, float | None], name: str
) -> tuple[float, float] | None:
    baseline, candidate = rows
    ours = baseline[name] if baseline["outputs"] >= LEAST else known.get(name)
    return (ours, candidate[name]) if ours and candidate[name] else None


def baseline_of(rows: Sequence[Mapping[str, Any]], known: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the baseline's figures that later nights may need."""
    names = ("tokens_per_second", "mean_output_tokens")
    measured = rows[0]["outputs"] >= LEAST
    return {name: rows[0][name] if measured and rows[0][name] else known.get(name) for name in names}


def name_of(options: Mapping[str, Any]) -> str:
    """Return the name of a candidate: what is different with it; values of engine options are left out."""
    shown = {
        field: [one.partition("=")[0] for one in value] if isinstance(value, list) else value
        for field, value in options.items()
    }
    return ", ".join(
        f"{field}={json.dumps(value) if isinstance(value, list) else value}"
        for field, value in sorted(shown.items())
    )
