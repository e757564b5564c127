"""What a night cost: device time held, at a price per hour, shared out by the work of the requests.

Every request bears of the device time that the engine held in proportion to the modelled seconds of its
answer, compute plus KV reads; a shared answer is shared. So loading, idle time and reading weights are borne
in the same proportion. Without a price there are device seconds and no cost: nothing is made up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.night.night import Night

HOUR_S = 3600.0


def night_cost(night: Night, infer: Mapping[str, Any], requests: int, tokens: int) -> dict[str, Any]:
    """Return the cost of a run by run, workload, tenant, thousand requests and million tokens.

    Parameters
    ----------
    infer
        Results of step infer.
    requests, tokens
        Answered requests, and tokens of their prompts and answers.

    Returns
    -------
    dict
        `gpu_hour_price`, `currency`, `cost`, `cost_per_1000_requests`, `cost_per_million_tokens`, None where
        unknown; `cost_by_workload` and `cost_by_tenant`, lists of ``{name, requests, share, gpu_seconds,
        cost, cost_per_1000_requests}``, dearest first.
    """
    price, held = night.settings.gpu_hour_price, infer.get("gpu_seconds_held")
    cost = None if price is None or held is None else held / HOUR_S * price
    work = _work(night)
    return {
        "gpu_hour_price": price,
        "currency": None if price is None else night.settings.currency,
        "cost": cost,
        "cost_per_1000_requests": _per(cost, requests / 1e3),
        "cost_per_million_tokens": _per(cost, tokens / 1e6),
        "cost_by_workload": cost_shares(work, "workload", held, cost),
        "cost_by_tenant": cost_shares(work, "tenant", held, cost),
    }


def _work(night: Night) -> pl.DataFrame:
    """Return the table `work`; of several attempts that wrote it, the last one counts."""
    parts = night.parts("work")
    if not parts:
        return pl.DataFrame(pl.from_arrow(night.read_table("work")))
    return pl.read_parquet(night.fetch(parts[-1]))


def cost_shares(work: pl.DataFrame, by: str, held: float | None, cost: float | None) -> list[dict[str, Any]]:
    """Share device seconds and cost out over the values of a column of the table `work`, dearest first."""
    found = (
        work.group_by(by)
        .agg(pl.sum("requests"), (pl.col("compute_seconds") + pl.col("memory_seconds")).sum().alias("work"))
        .sort(["work", by], descending=[True, False], nulls_last=True)
    )
    total = float(found["work"].sum())
    rows = []
    for name, requests, seconds in found.select(by, "requests", "work").iter_rows():
        share = seconds / total if total > 0.0 else 0.0
        mine = None if cost is None else share * cost
        rows.append(
            {
                "name": name,
                "requests": requests,
                "share": share,
                "gpu_seconds": None if held is None else share * held,
                "cost": mine,
                "cost_per_1000_requests": _per(mine, requests / 1e3),
            }
        )
    return rows


def _per(cost: float | None, units: float) -> float | None:
    return None if cost is None or units <= 0.0 else cost / units
