"""The figures of a run, for its publication: counts and lengths from its parts, the rest from its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from tasks.base.accounting import Account, AccountingError, ExitCode, RunStatus, check_run, decide
from tasks.base.bad_rows import count_bad_rows
from tasks.night.model import model_name
from tasks.publish.night_cost import night_cost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from tasks.night.night import Night

SUMMARY_FORMAT: Final = 1

_FROM_INFER: Final = (
    "engine_seconds",
    "modelled_compute_seconds",
    "modelled_memory_seconds",
    "modelled_seconds",
    "ideal_seconds",
    "model_flops",
    "model_bytes",
    "mfu",
    "mbu",
    "overlap_fraction",
    "density",
    "kv_occupancy",
    "idle_tail_seconds",
    "gpu_seconds_held",
    "gpu_seconds_busy",
    "measured_energy_joules",
    "steps",
    "by_replica",
    "recomputed_tokens",
    "retractions",
    "evicted_pages",
    "peak_running",
    "engine_starts",
    "reused_answers",
    "device",
    "engine",
)


def results_of(night: Night, step: str) -> Mapping[str, Any]:
    """Return the results of a step, empty if the log does not have it."""
    found = night.log.state.steps.get(step)
    return found.results if found else {}


def summarise(night: Night, account: Account, files: Mapping[str, list[Path]]) -> dict[str, Any]:
    """Return the summary of a run whose rows are checked (`tasks.publish.publish.check_rows`).

    Nothing but the run's log and parts goes into it, so it is the same whenever it is made.

    Parameters
    ----------
    account
        Sum over the objects, from step `extract`.
    files
        Local Parquet files of the tables outputs, errors and quarantine.

    Returns
    -------
    dict
        Tokens are of the published outputs. `seconds` is the wall time of step `infer`, or the engine's time
        over all attempts where that is more (a resumed run). `tokens_per_second` is (prompt + answer tokens
        delivered) / `seconds`. Figures that nobody measured are None.

    Raises
    ------
    AccountingError
        If requests are not outputs + errors, or too much is quarantined to publish at all.
    """
    infer, plan = results_of(night, "infer"), results_of(night, "plan")
    answered, failed = _outputs(files["outputs"]), _errors(files["errors"])
    outputs, errors = int(answered["requests"].sum()), int(failed["errors"].sum())
    check_run(account.requests, outputs, errors)
    status, exit_code = decide(
        account,
        outputs,
        errors,
        max_bad_fraction=night.settings.max_bad_fraction,
        abort_quarantined_fraction=night.settings.abort_quarantined_fraction,
    )
    if exit_code is ExitCode.FAILED:
        reason = "too many lines are in quarantine" if status is RunStatus.ABORTED else "the run failed"
        raise AccountingError(f"{reason}: {account.quarantined} of {account.lines} lines; nothing to publish")
    input_tokens, output_tokens = int(answered["input_tokens"].sum()), int(answered["output_tokens"].sum())
    # Step infer knows the wall time of its last attempt; the engine's own time is over all that count.
    seconds = max(float(infer.get(name) or 0.0) for name in ("seconds", "engine_seconds"))
    worked = infer.get("input_tokens", input_tokens) + infer.get("output_tokens", output_tokens)
    extract = results_of(night, "extract")
    return {
        "format": SUMMARY_FORMAT,
        "job": night.job,
        "run_date": night.run_date.isoformat(),
        "run_key": night.run_key,
        "model": model_name(night.model_dir),
        "policy": infer.get("policy") or plan.get("policy") or night.settings.policy,
        "status": status.value,
        "exit_code": int(exit_code),
        "max_bad_fraction": night.settings.max_bad_fraction,
        "account": account.counts(),
        "objects": extract.get("objects"),
        "object_errors": extract.get("object_errors", []),
        "requests": account.requests,
        "outputs": outputs,
        "errors": errors,
        "quarantined": account.quarantined,
        "filtered": account.filtered,
        "filtered_by": extract.get("filtered_by", {}),
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cached_tokens": _cached(answered),
        "seconds": seconds,
        "tokens_per_second": worked / seconds if seconds > 0 else None,
        "hit_rate": infer.get("hit_rate"),
        "hit_rate_optimum": infer.get("hit_rate_optimum", plan.get("hit_rate_optimum")),
        **{name: infer.get(name) for name in _FROM_INFER},
        **night_cost(night, infer, outputs, input_tokens + output_tokens),
        "finish_reasons": _total(answered, "finish_reason", "requests"),
        "error_codes": _total(failed, "code", "errors"),
        "bad_rows": count_bad_rows(files["errors"], files["quarantine"]),
        "workloads": _workloads(answered, failed, files["outputs"]),
        "profile": dict(results_of(night, "profile")) or None,
        **({"comparisons": compared["rows"]} if (compared := results_of(night, "compare")) else {}),
        **({"promises": promised["rows"]} if (promised := results_of(night, "promises")) else {}),
    }


def _outputs(files: list[Path]) -> pl.DataFrame:
    """Return requests and token sums per workload and finish reason."""
    usage = pl.col("usage").struct
    sums = {
        name: usage.field(field).cast(pl.Int64).sum()
        for name, field in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
    }
    cached = usage.field("cached_tokens").cast(pl.Int64)
    # A sum over answers of which it is not known is not known.
    sums["cached_tokens"] = pl.when(cached.null_count() == 0).then(cached.sum())
    keys = ["workload", "finish_reason"]
    if not files:
        empty: dict[str, Any] = dict.fromkeys(keys, pl.String)
        return pl.DataFrame(schema=empty | dict.fromkeys(["requests", *sums], pl.Int64))
    scan = pl.scan_parquet(files).select("workload", "finish_reason", "usage")
    counted = scan.group_by(keys).agg(pl.len().cast(pl.Int64).alias("requests"), **sums)
    return counted.sort(keys).collect(engine="streaming")


def _cached(rows: pl.DataFrame) -> int | None:
    """Return the prompt tokens from the cache; None where an engine has not told them of every answer."""
    return None if rows["cached_tokens"].null_count() else int(rows["cached_tokens"].sum())


def _errors(files: list[Path]) -> pl.DataFrame:
    keys = ["workload", "code"]
    if not files:
        return pl.DataFrame(schema={"workload": pl.String, "code": pl.String, "errors": pl.Int64})
    scan = pl.scan_parquet(files).select(keys)
    counted = scan.group_by(keys).agg(pl.len().cast(pl.Int64).alias("errors"))
    return counted.sort(keys).collect(engine="streaming")


def _total(rows: pl.DataFrame, key: str, value: str) -> dict[str, int]:
    return dict(rows.group_by(key).agg(pl.col(value).sum()).sort(key).iter_rows())


def _workloads(answered: pl.DataFrame, failed: pl.DataFrame, files: list[Path]) -> dict[str, dict[str, Any]]:
    names = sorted({*answered["workload"].to_list(), *failed["workload"].to_list()})
    lengths = answer_lengths(files)
    found = {}
    for name in names:
        mine = answered.filter(pl.col("workload") == name)
        errors = int(failed.filter(pl.col("workload") == name)["errors"].sum())
        outputs = int(mine["requests"].sum())
        found[name] = {
            "requests": outputs + errors,
            "outputs": outputs,
            "errors": errors,
            **{key: int(mine[key].sum()) for key in ("input_tokens", "output_tokens")},
            "cached_tokens": _cached(mine),
            "finish_reasons": _total(mine, "finish_reason", "requests"),
            "output_lengths": lengths.get(name),
        }
    return found


def answer_lengths(files: list[Path]) -> dict[str, dict[str, float]]:
    """Return mean, median, 90th percentile and coefficient of variation of answer lengths per workload."""
    if not files:
        return {}
    length = pl.col("usage").struct.field("completion_tokens").cast(pl.Int64).alias("length")
    # How often each length occurs is all that is held, and does not depend on the order of the parts.
    rows = (
        pl.scan_parquet(files)
        # Embeddings are no answers of length 0.
        .filter(pl.col("endpoint") != "embeddings")
        .group_by("workload", length)
        .agg(pl.len().alias("count"))
        .sort("workload", "length")
        .collect(engine="streaming")
    )
    found = {}
    for (name,), group in rows.group_by("workload", maintain_order=True):
        values, counts = group["length"].to_numpy(), group["count"].to_numpy().astype(np.int64)
        mean = float(np.average(values, weights=counts))
        variance = float(np.average((values - mean) ** 2, weights=counts))
        found[str(name)] = {
            "mean": mean,
            "p50": _quantile(values, counts, 0.5),
            "p90": _quantile(values, counts, 0.9),
            "variation": variance**0.5 / mean if mean else 0.0,
        }
    return found


def _quantile(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], share: float) -> float:
    """Return the quantile of sorted values that occur `counts` times, linear between neighbours."""
    last = np.cumsum(counts) - 1
    place = share * float(last[-1])
    below, above = (values[np.searchsorted(last, end)] for end in (np.floor(place), np.ceil(place)))
    return float(below + (above - below) * (place - np.floor(place)))
