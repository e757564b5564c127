"""How far the figures of the cost model can be trusted: planned against actual, over a job's past runs.

A run's total counts if one engine computed it from beginning to end: a plan covers what remained when it was
made. What corrects an estimate, for the device profile that those runs were planned with, is not that total
but the time of each step against what the model says of that very step: wrong lengths would hide in a total,
and an estimate corrects its lengths by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from engine.cost.step import DeviceProfile
from tasks.base.errors import ConfigurationError
from tasks.plan.prediction import profile_digest
from tasks.report.inspect_run import lengths
from tasks.runlog.parts import read_table
from tasks.runlog.past_runs import published_runs
from tasks.store.open import open_store

if TYPE_CHECKING:
    import numpy.typing as npt

    from tasks.runlog.past_runs import PastRun

RUNS: Final = 30
"""Latest runs that are looked at."""
KEPT_ERROR: Final = 0.05
"""Least error that is left after a correction: the next night is never quite like the last ones."""
FEW: Final = 3
"""Up to so many runs the error that is left is taken twice as large."""


@dataclass(frozen=True)
class Corrections:
    """What past runs say of the model's errors.

    Attributes
    ----------
    factor
        Measured time of the engine's steps over what is modelled of them
        (`time_factor`), median.
    error
        Relative error that is left after the correction.
    overhead_seconds
        Of a night beside the engine's steps: loading, reading, writing.
    runs
        How many runs that is from.
    """

    factor: float = 1.0
    error: float | None = None
    overhead_seconds: float = 0.0
    runs: int = 0


def past_errors(store_uri: str, job: str, runs: int = RUNS) -> dict[str, Any]:
    """Return the errors of a job's latest published runs.

    Returns
    -------
    dict
        `job` and `runs`, latest first: `run_date, run_key, policy, device, profile` (digest of the device
        profile), `counts` (whether its total says something of the model) and, if not, `why`; `total`
        (`planned, actual, error`, seconds of the engine's steps), `steps` (`p50, p95` of the absolute
        relative error of step times, `factor`: see `time_factor`), `lengths` (`planned, actual, error` of
        all answer tokens and `mean_absolute_error` of one) and `overhead_seconds`. Errors are actual over
        planned, less 1.

    Raises
    ------
    ConfigurationError
        If the job has no published run there.
    """
    store = open_store(store_uri)
    with TemporaryDirectory(prefix="nightblend-") as folder:
        found = [_errors(run, Path(folder)) for run in islice(published_runs(store, job), runs)]
    if not found:
        raise ConfigurationError(
            "--job", f"{job} has no published run in {store_uri}", "Run a night first, or correct the name"
        )
    return {"job": job, "runs": found}


def past_lengths(store_uri: str, job: str, runs: int = RUNS) -> dict[str, npt.NDArray[np.int64]]:
    """Return workload -> int64 [n], tokens: lengths of answers of a job's latest published runs."""
    store = open_store(store_uri)
    tables = []
    with TemporaryDirectory(prefix="nightblend-") as folder:
        for run in islice(published_runs(store, job), runs):
            table = read_table(run.log, "lengths", Path(folder), ["workload", "output_tokens"])
            tables.append(pl.DataFrame(pl.from_arrow(table)))
    if not tables:
        return {}
    rows = pl.concat(tables).group_by("workload").agg(pl.col("output_tokens").cast(pl.Int64)).sort("workload")
    return {name: np.array(values, np.int64) for name, values in rows.iter_rows()}


def corrections_of(runs: list[dict[str, Any]], device: DeviceProfile) -> Corrections:
    """Return what past runs that were planned with a device profile say of estimates made with it."""
    digest = profile_digest(device)
    counted = [
        run
        for run in runs
        if run["profile"] == digest and run["steps"] and run["overhead_seconds"] is not None
    ]
    if not counted:
        return Corrections()
    factors = np.array([run["steps"]["factor"] for run in counted])
    factor = float(np.median(factors))
    left = float(np.abs(factors / factor - 1.0).max())
    return Corrections(
        factor=factor,
        error=max(KEPT_ERROR, left) * (2.0 if len(counted) < FEW else 1.0),
        overhead_seconds=float(np.median([run["overhead_seconds"] for run in counted])),
        runs=len(counted),
    )


def time_factor(actual: npt.NDArray[np.float64], modelled: npt.NDArray[np.float64]) -> float:
    """Return the median of actual over modelled step times, each step weighted by its modelled time.

    Unlike the ratio of the sums it does not follow a few steps that took seconds because something was
    compiled or the machine paused; unlike the plain median it goes by the steps in which the time is spent.

    Parameters
    ----------
    actual, modelled
        float64 [steps], seconds; above 0.
    """
    ratio = actual / modelled
    order = np.argsort(ratio)
    reached = np.cumsum(modelled[order])
    return float(ratio[order][np.searchsorted(reached, reached[-1] / 2)])


def _errors(run: PastRun, folder: Path) -> dict[str, Any]:
    state = run.log.state
    steps = {name: step.results for name, step in state.steps.items()}
    plan, infer = steps.get("plan", {}), steps.get("infer", {})
    predicted = plan.get("predicted")
    found: dict[str, Any] = {
        "run_date": run.run_date,
        "run_key": run.run_key,
        "policy": plan.get("policy"),
        "device": infer["device"]["name"] if infer.get("device") else None,
        "profile": predicted["profile"] if predicted else None,
        "why": _why_not(plan, infer),
        "total": None,
        "overhead_seconds": None,
    }
    found["counts"] = found["why"] is None
    if predicted and infer.get("engine_seconds"):
        found["total"] = _pair(predicted["seconds"], infer["engine_seconds"])
        found["overhead_seconds"] = max(0.0, infer["seconds"] - infer["engine_seconds"])
    samples = pl.DataFrame(pl.from_arrow(read_table(run.log, "steps", folder)))
    found["steps"] = _step_errors(samples, infer.get("device"))
    found["lengths"] = _length_errors(run, folder)
    return found


def _why_not(plan: dict[str, Any], infer: dict[str, Any]) -> str | None:
    """Return why the total of a run says nothing of the model; None if it does."""
    if not plan.get("predicted"):
        return "no duration was predicted"
    if infer.get("engine_starts") and infer.get("steps", 0) is None:
        return "its engine tells no steps"
    if not infer.get("engine_seconds"):
        return "nothing was computed"
    if infer.get("engine_starts") != 1 or plan.get("remaining") != infer.get("computed_answers"):
        return "it was stopped and went on"
    if infer.get("reused_answers"):
        return "some answers were those of earlier nights"
    return None


def _step_errors(samples: pl.DataFrame, device: dict[str, Any] | None) -> dict[str, float] | None:
    """Return how far the cost model is off, step by step; None if no step was measured."""
    timed = samples.filter(pl.col("seconds") > 0)
    if timed.is_empty() or not device:
        return None
    profile = DeviceProfile(**device)
    compute, memory = (timed[f"modelled_{name}_seconds"].to_numpy() for name in ("compute", "memory"))
    pairs = zip(compute, memory, strict=True)
    modelled = pl.Series([profile.pair_seconds(c, m) + profile.step_seconds for c, m in pairs])
    if "modelled_seconds" in timed.columns:
        # Nights before this column was written go by the sums alone.
        modelled = timed["modelled_seconds"].fill_null(modelled)
    actual = timed.filter(modelled > 0)["seconds"].to_numpy()
    expected = modelled.filter(modelled > 0).to_numpy()
    if not len(actual):
        return None
    p50, p95 = np.quantile(np.abs(actual / expected - 1.0), (0.5, 0.95)).tolist()
    return {"steps": float(len(actual)), "p50": p50, "p95": p95, "factor": time_factor(actual, expected)}


def _length_errors(run: PastRun, folder: Path) -> dict[str, float] | None:
    profiles = pl.DataFrame(pl.from_arrow(read_table(run.log, "profiles", folder)))
    outputs = pl.DataFrame(pl.from_arrow(read_table(run.log, "outputs", folder, ["request_id", "usage"])))
    rows = lengths(profiles, outputs)
    count = sum(row["requests"] for row in rows)
    if not count:
        return None
    mean = {
        name: sum(row[name] * row["requests"] for row in rows) / count
        for name in ("expected", "actual", "mean_absolute_error")
    }
    return {
        **_pair(mean["expected"] * count, mean["actual"] * count),
        "mean_absolute_error": mean["mean_absolute_error"],
    }


def _pair(planned: float, actual: float) -> dict[str, float]:
    return {"planned": planned, "actual": actual, "error": actual / planned - 1.0 if planned > 0 else 0.0}
