"""Utilisation over time: engine steps and the device's own counters over equal stretches of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

from engine.cost.metrics import MEASURED
from tasks.base.schema import SCHEMAS, conform

if TYPE_CHECKING:
    from datetime import date

    import pyarrow as pa

    from engine.cost.profiles import DeviceProfile

SAMPLE_SECONDS: Final = 10

_SUMS: Final = (
    "seconds",
    "prefill_tokens",
    "decode_tokens",
    "kv_tokens_read",
    "modelled_compute_seconds",
    "modelled_memory_seconds",
    "hit_tokens",
    "recomputed_tokens",
    "retractions",
    "evicted_pages",
)
# Those that steps of earlier versions do not have; a sum over nulls would be 0.
_LATER_SUMS: Final = ("model_flops", "model_bytes", "modelled_seconds")
_MEANS: Final = ("sequences", "kv_occupancy")


def over_time(
    steps: pl.DataFrame, device: DeviceProfile | None, seconds: int = SAMPLE_SECONDS
) -> pl.DataFrame:
    """Return the steps of a run summed up over every so many seconds, as the table `utilization` has them.

    Parameters
    ----------
    steps
        Rows of the table `steps`.
    device
        What they ran on; without it no shares of its peaks are known.

    Returns
    -------
    pl.DataFrame
        The table's columns that come from steps, by `started_at`. Each figure is that of
        `engine.cost.metrics`.
    """
    weight = pl.col("seconds")
    grouped = (
        steps.lazy()
        .with_columns(pl.col("started_at").dt.truncate(f"{seconds}s"))
        .group_by("started_at")
        .agg(
            pl.sum(*_SUMS),
            pl.len().alias("steps"),
            pl.min("free_pages"),
            *(
                pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)
                for name in _LATER_SUMS
            ),
            # Steps that took no time at all count alike.
            *(
                pl.when(weight.sum() > 0)
                .then((pl.col(name) * weight).sum() / weight.filter(pl.col(name).is_not_null()).sum())
                .otherwise(pl.col(name).mean())
                .fill_nan(None)
                .alias(name)
                for name in _MEANS
            ),
        )
        .sort("started_at")
    )
    compute, memory = pl.col("modelled_compute_seconds"), pl.col("modelled_memory_seconds")
    smaller = pl.min_horizontal(compute, memory)
    return grouped.with_columns(
        _share("model_flops", device.peak_flops if device else None).alias("mfu"),
        _share("model_bytes", device.peak_bytes if device else None).alias("mbu"),
        pl.when((smaller > 0) & (weight > 0))
        .then(((compute + memory - weight) / smaller).clip(0.0, 1.0))
        .alias("overlap_fraction"),
        pl.when(memory > 0).then(compute / memory).alias("density"),
    ).collect()


def _share(amount: str, peak: float | None) -> pl.Expr:
    if peak is None:
        return pl.lit(None, pl.Float64)
    seconds = pl.col("seconds")
    return pl.when(seconds > 0).then(pl.col(amount) / seconds / peak)


def measured_over_time(samples: pl.DataFrame, seconds: int = SAMPLE_SECONDS) -> pl.DataFrame:
    """Return the device's own counters over every so many seconds: energy summed up, the rest means by time.

    Parameters
    ----------
    samples
        Rows of the table `device_samples`.
    """
    weight = pl.col("seconds")

    def mean(name: str) -> pl.Expr:
        told = pl.col(name).is_not_null()
        return ((pl.col(name) * weight).sum() / weight.filter(told).sum()).fill_nan(None).alias(name)

    energy = pl.col("measured_energy_joules")
    return (
        samples.lazy()
        .with_columns(pl.col("started_at").dt.truncate(f"{seconds}s"))
        .group_by("started_at")
        .agg(
            *(mean(name) for name in MEASURED if name != "measured_energy_joules"),
            pl.when(energy.count() > 0).then(energy.sum()).alias("measured_energy_joules"),
        )
        .sort("started_at")
        .collect()
    )


def utilization(
    steps: pl.DataFrame,
    samples: pl.DataFrame,
    device: DeviceProfile | None,
    *,
    job: str,
    run_date: date,
    run_key: str,
) -> pa.Table:
    """Return the table `utilization` of a run: its steps and device samples over every ten seconds."""
    found = (
        over_time(steps, device)
        .join(measured_over_time(samples), on="started_at", how="left")
        .sort("started_at")
        .with_columns(job=pl.lit(job), run_date=pl.lit(run_date), run_key=pl.lit(run_key))
    )
    return conform(found.to_arrow(), SCHEMAS["utilization"])
