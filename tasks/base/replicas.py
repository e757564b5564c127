"""What each replica of a run did, from the rows of its table `steps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTS: Final = ("prefill_tokens", "decode_tokens", "hit_tokens", "recomputed_tokens")


def spans(steps: pl.DataFrame) -> pl.DataFrame:
    """Return when each replica of each attempt computed.

    Parameters
    ----------
    steps
        Rows of the table `steps`, with the column `attempt_id` (`tasks.runlog.parts.read_steps`).

    Returns
    -------
    pl.DataFrame
        `attempt_id, replica, begin, end` (of its first and last step, Unix time, s) and `tail_seconds`: from
        that end to the end of the slowest replica of the attempt.
    """
    begin = pl.col("started_at").dt.timestamp("us") / 1e6
    return (
        # Those of earlier versions were of one engine.
        steps.group_by("attempt_id", pl.col("replica").fill_null(0))
        .agg(begin.min().alias("begin"), (begin + pl.col("seconds")).max().alias("end"))
        .with_columns((pl.col("end").max().over("attempt_id") - pl.col("end")).alias("tail_seconds"))
        .sort("begin", "replica")
    )


def by_replica(
    steps: pl.DataFrame, devices: int, held: Mapping[int, float] | None = None, attempt_id: str = ""
) -> list[dict[str, Any]]:
    """Return what each replica of a run did, over all its attempts.

    Parameters
    ----------
    steps
        As for `spans`.
    devices
        Of each replica.
    held
        Replica -> seconds that its engines lived in the attempt `attempt_id`. A killed attempt leaves nothing
        about that but its steps: of all others it is the time from the first to the last step, the least that
        it was. None: it is known of no attempt.

    Returns
    -------
    list of dict
        `replica, steps, engine_seconds, prefill_tokens, decode_tokens, hit_tokens, recomputed_tokens,
        hit_rate` (part of the prompt tokens taken from the cache; None without any), `tail_seconds` (from the
        last step to the end of the slowest replica, added up over attempts), `gpu_seconds_busy` and
        `gpu_seconds_held` (s times devices; the latter None without `held`).
    """
    replica = pl.col("replica").fill_null(0)
    sums = {
        row.pop("replica"): row
        for row in steps.group_by(replica)
        .agg(
            pl.len().alias("steps"),
            pl.sum("seconds").alias("engine_seconds"),
            # Polars adds integers of 32 bits up in 32 bits.
            *(pl.col(name).cast(pl.Int64).sum() for name in _COUNTS),
        )
        .to_dicts()
    }
    lived, tails = dict(held or {}), dict.fromkeys(sums, 0.0)
    for row in spans(steps).to_dicts():
        number = row["replica"]
        tails[number] += row["tail_seconds"]
        if row["attempt_id"] != attempt_id:
            lived[number] = lived.get(number, 0.0) + row["end"] - row["begin"]
    nothing: dict[str, Any] = {"steps": 0, "engine_seconds": 0.0, **dict.fromkeys(_COUNTS, 0)}
    return [
        {
            "replica": number,
            **(found := sums.get(number, nothing)),
            "hit_rate": _hit_rate(found),
            "tail_seconds": tails.get(number, 0.0),
            "gpu_seconds_busy": devices * found["engine_seconds"],
            "gpu_seconds_held": None if held is None else devices * lived.get(number, 0.0),
        }
        for number in sorted({*sums, *(held or {})})
    ]


def _hit_rate(found: Mapping[str, Any]) -> float | None:
    # What was computed again was computed before, or taken from the cache.
    computed = max(0, found["prefill_tokens"] - found["recomputed_tokens"])
    prompt = found["hit_tokens"] + computed
    return found["hit_tokens"] / prompt if prompt > 0 else None
