"""The section of a report about a candidate that has answered a share of the night."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from engine.choices import NATIVE
from tasks.report.document import Table, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.report.document import Block

COLUMNS: Final = ("side", "requests", "errors", "tokens/s", "mean answer", "ended by itself")
UNKNOWN: Final = "-"
_SHARES: Final = (
    ("exact", "equal"),
    ("normalised", "equal but for case, spaces and punctuation"),
    ("json_equal", "equal as JSON, of those that are JSON"),
)


def sides(rows: Sequence[Mapping[str, Any]], stage: Mapping[str, Any] | None = None) -> list[Block]:
    """Return what both sides did, from rows of table `comparisons`; nothing where there was no candidate.

    `stage` is what rules made of it: results of step `canary`.
    """
    if not rows:
        return []
    candidate = rows[-1]
    share = f"{candidate['share_percent']:g} % of the requests, by {candidate['share_by']}"
    blocks: list[Block] = [
        Table(f"Both sides; the candidate: {share}", COLUMNS, [_cells(row) for row in rows])
    ]
    if stage:
        percent = stage["percent"]
        now = f"{percent:g} % from the next night on" if percent else "none of the next night"
        blocks.append(Text(f"Decided by {stage['by']}: {stage['action']} ({stage['reason']}); {now}."))
    if candidate["failure"]:
        blocks.append(Text(f"The candidate ended early: {candidate['failure']}"))
    if candidate["errors"]:
        blocks.append(
            Text(
                "What the candidate had no answer to was answered as before: nothing of the date is missing."
            )
        )
    if candidate["compared"]:
        said = [f"{candidate[name]:.1%} {words}" for name, words in _SHARES if candidate[name] is not None]
        if candidate["score"] is not None:
            said.append(f"mean score {candidate['score']:.3g}")
        blocks.append(Text(f"Of {candidate['compared']:,} answers that both sides gave: {'; '.join(said)}."))
    return blocks


def _cells(row: Mapping[str, Any]) -> list[str]:
    engine = row["engine"] if row["engine"] == NATIVE else f"{row['engine']} {row['engine_version']}"
    speed, mean = row["tokens_per_second"], row["mean_output_tokens"]
    stopped = json.loads(row["finish_reasons"]).get("stop", 0)
    return [
        f"{row['side']}: {engine}, {row['policy']}, {row['model']}, {row['precision']}",
        f"{row['requests']:,}",
        f"{row['errors'] / row['requests']:.1%}" if row["requests"] else UNKNOWN,
        UNKNOWN if speed is None else f"{speed:,.0f}",
        UNKNOWN if mean is None else f"{mean:,.1f} tokens",
        f"{stopped / row['outputs']:.1%}" if row["outputs"] else UNKNOWN,
    ]
