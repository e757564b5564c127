"""What a run did, from its run log and the parts that it names: shared prefixes, densities, mix, plan kept.

Reading needs no claim and changes nothing. Prompts are never shown: a prefix is told by its length, by how
many requests share it and by their workloads.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from engine.cost.step import DeviceProfile
from engine.plan.tree import build_tree, leaf_ranges
from tasks.base.errors import ConfigurationError
from tasks.base.replicas import by_replica
from tasks.runlog.log import RunLog
from tasks.runlog.parts import fetch, read_steps, read_table, request_parts
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.plan.tree import PrefixTree

SLICES: Final = 10
"""Equal parts of the run's time in which the mix is shown."""
TOP: Final = 10


def inspect_run(run: str, top: int = TOP) -> dict[str, Any]:
    """Return what is known of a run.

    Parameters
    ----------
    run
        URI or path of the run directory, as `nightblend run` prints it.
    top
        Most prefixes to list.

    Returns
    -------
    dict
        `run, attempts, status, policy, device`; `tree` (`requests, prompt_tokens, distinct_tokens,
        saved_tokens, hit_rate_optimum` and `prefixes`, those that save the most tokens first); `workloads`,
        as step profile has them; `mix`, slices of the run's time; `lengths`, expected against true ones by
        source of the estimate; `planned`, name -> `{planned, actual}`; `by_replica`
        (`tasks.base.replicas.by_replica`; of a run that has not computed everything yet by its steps alone,
        without `gpu_seconds_held`). What the run has not come to yet is empty or None.

    Raises
    ------
    ConfigurationError
        If there is no run log.
    """
    log = open_run(run)
    state = log.state
    steps = {name: step.results for name, step in state.steps.items()}
    with TemporaryDirectory(prefix="nightblend-") as folder:
        reader = _Reader(log, Path(folder))
        requests = reader.requests() if "tokenize" in steps else None
        profiles, samples = reader.table("profiles"), reader.steps()
        outputs = reader.table("outputs", ["request_id", "usage", "run_key"])
        return {
            "run": run,
            "attempts": [
                {
                    "id": attempt.id,
                    "policy": attempt.policy,
                    "device": attempt.device,
                    "status": state.endings[attempt.id].status if attempt.id in state.endings else "unended",
                }
                for attempt in state.attempts
            ],
            "status": state.ended.status if state.ended else "unended",
            "policy": steps.get("plan", {}).get("policy")
            or (state.attempt.policy if state.attempt else None),
            "choice": steps.get("plan", {}).get("choice"),
            "device": state.attempt.device if state.attempt else None,
            "tree": _tree(requests, profiles, top) if requests else None,
            "workloads": steps.get("profile", {}).get("workloads", {}),
            "mix": mix_over_time(samples),
            "lengths": lengths(profiles, outputs),
            "planned": planned_and_actual(steps, samples),
            "by_replica": replicas_of(steps, samples),
        }


def compare_with_plan(run: str) -> dict[str, dict[str, Any]]:
    """Return `planned` of `inspect_run` alone, without reading prompts or answers."""
    log = open_run(run)
    with TemporaryDirectory(prefix="nightblend-") as folder:
        samples = _Reader(log, Path(folder)).table("steps")
    return planned_and_actual({name: step.results for name, step in log.state.steps.items()}, samples)


def open_run(run: str) -> RunLog:
    """Return the run log of a run directory, read to its end; raise `ConfigurationError` if there is none."""
    parent, _, name = run.rstrip("/").rpartition("/")
    if name:
        log = RunLog(open_store(parent or ".", "RUN"), name)
        if log.refresh().next_seq > 0:
            return log
    raise ConfigurationError("RUN", f"{run} has no run log", "Give the run directory that `run` prints")


class _Reader:
    """Brings parts of a run to a local folder."""

    def __init__(self, log: RunLog, folder: Path) -> None:
        self._log, self._folder = log, folder

    def table(self, kind: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Return the rows of all Parquet parts of a kind, in log order."""
        return pl.DataFrame(pl.from_arrow(read_table(self._log, kind, self._folder, columns)))

    def steps(self) -> pl.DataFrame:
        """Return the rows of the table `steps` in the order of time, with the column `attempt_id`."""
        return read_steps(self._log, self._folder)

    def requests(self) -> tuple[pl.DataFrame, PrefixTree]:
        """Return id and workload of the requests in the order of their tokens, and their prefix tree."""
        parts = request_parts(self._log.state)
        table, tokens, offsets = (fetch(self._log, part, self._folder) for part in parts)
        rows = pl.DataFrame(pl.from_arrow(pq.read_table(table, columns=["request_id", "workload"])))
        return rows, build_tree(np.load(tokens, mmap_mode="r"), np.load(offsets))


def replicas_of(steps: Mapping[str, Mapping[str, Any]], samples: pl.DataFrame) -> list[dict[str, Any]]:
    """Return what each replica did, as step infer has told it, else by the steps that are durable.

    Parameters
    ----------
    steps
        Results of the finished steps, by name.
    samples
        Rows of the table `steps`, with the column `attempt_id`.
    """
    infer = steps.get("infer", {})
    told: list[dict[str, Any]] | None = infer.get("by_replica")
    if told is not None:
        return told
    return by_replica(samples, (infer.get("device") or {}).get("shards", 1))


def _tree(requests: tuple[pl.DataFrame, PrefixTree], profiles: pl.DataFrame, top: int) -> dict[str, Any]:
    from engine.plan.order import saved_tokens
    from engine.plan.tree import distinct_tokens, hit_rate_optimum

    rows, tree = requests
    n = tree.sorted.shape[0]
    saved = saved_tokens(tree)
    return {
        "requests": n,
        "prompt_tokens": int(tree.depth[:n].sum()),
        "distinct_tokens": distinct_tokens(tree),
        "saved_tokens": saved,
        "hit_rate_optimum": hit_rate_optimum(tree),
        "prefixes": top_prefixes(tree, rows.join(profiles, on="request_id", how="left"), top),
    }


def top_prefixes(tree: PrefixTree, rows: pl.DataFrame, top: int = TOP) -> list[dict[str, Any]]:
    """Return the prefixes that save the most tokens, most first.

    A prefix saves the tokens by which it is longer than the next shorter shared one, for every request but
    the first. The sum over all prefixes is what the tree saves.

    Parameters
    ----------
    rows
        By request: `workload`, `compute_seconds` and `memory_seconds` (null where unknown).
    """
    n = tree.sorted.shape[0]
    first, count = leaf_ranges(tree)
    inner = np.arange(n, tree.parent.shape[0] - 1)
    own = tree.depth[inner] - tree.depth[tree.parent[inner]]
    saved = own * (count[inner] - 1)
    best = inner[np.argsort(-saved, kind="stable")[:top]]
    total = max(int(saved.sum()), 1)
    workload = rows["workload"].to_numpy()[tree.sorted]
    work = [rows[name].to_numpy()[tree.sorted] for name in ("compute_seconds", "memory_seconds")]
    found = []
    for node in best:
        part = slice(int(first[node]), int(first[node] + count[node]))
        names, times = np.unique(workload[part].astype(str), return_counts=True)
        compute, memory = (float(x[part].sum()) for x in work)
        found.append(
            {
                "tokens": int(tree.depth[node]),
                "own_tokens": int(tree.depth[node] - tree.depth[tree.parent[node]]),
                "requests": int(count[node]),
                "saved_tokens": int(saved[node - n]),
                "part_of_saved": float(saved[node - n] / total),
                "density": compute / memory if memory > 0 else None,
                "workloads": dict(zip(names.tolist(), times.tolist(), strict=True)),
            }
        )
    return found


def mix_over_time(samples: pl.DataFrame, slices: int = SLICES) -> list[dict[str, Any]]:
    """Return the run's steps in slices of equal time, in the order they were launched.

    Parameters
    ----------
    samples
        Rows of the table `steps`.

    Returns
    -------
    list of dict
        `from_s` (engine seconds before it), `seconds, steps, prefill_tokens, decode_tokens, running`
        (requests, mean by time), `compute_seconds, memory_seconds` (by the cost model), `density`,
        `retractions`.
    """
    if samples.is_empty():
        return []
    steps = samples.sort("started_at", "step")
    before = pl.Series("before", np.concatenate(([0.0], np.cumsum(steps["seconds"].to_numpy())))[:-1])
    total = float(steps["seconds"].sum())
    place = (before * slices / total).floor().clip(0, slices - 1).cast(pl.Int64) if total > 0 else before * 0
    sums = {
        name: pl.col(column).sum()
        for name, column in (
            ("seconds", "seconds"),
            ("prefill_tokens", "prefill_tokens"),
            ("decode_tokens", "decode_tokens"),
            ("compute_seconds", "modelled_compute_seconds"),
            ("memory_seconds", "modelled_memory_seconds"),
            ("retractions", "retractions"),
        )
    }
    found = (
        steps.with_columns(before, place.alias("slice"))
        .group_by("slice")
        .agg(
            pl.col("before").min().alias("from_s"),
            pl.len().alias("steps"),
            # With a little time each, so that steps of no time at all have a mean, too.
            (pl.col("sequences") * (pl.col("seconds") + 1e-9)).sum().alias("weighted"),
            **sums,
        )
        .sort("slice")
        .with_columns((pl.col("weighted") / (pl.col("seconds") + 1e-9 * pl.col("steps"))).alias("running"))
        .drop("slice", "weighted")
    )
    rows = found.to_dicts()
    for row in rows:
        row["density"] = row["compute_seconds"] / row["memory_seconds"] if row["memory_seconds"] > 0 else None
    return rows


def lengths(profiles: pl.DataFrame, outputs: pl.DataFrame) -> list[dict[str, Any]]:
    """Return expected against true answer lengths by source of the estimate.

    Returns
    -------
    list of dict
        `source, requests, expected, actual` (means), `mean_error` and `mean_absolute_error`, tokens.
    """
    actual = outputs.select(
        "request_id", pl.col("usage").struct.field("completion_tokens").cast(pl.Float64).alias("actual")
    )
    both = profiles.join(actual, on="request_id")
    error = pl.col("estimated_output_tokens") - pl.col("actual")
    return (
        both.group_by(pl.col("output_length_source").alias("source"))
        .agg(
            pl.len().alias("requests"),
            pl.col("estimated_output_tokens").mean().alias("expected"),
            pl.col("actual").mean(),
            error.mean().alias("mean_error"),
            error.abs().mean().alias("mean_absolute_error"),
        )
        .sort("source")
        .to_dicts()
    )


def planned_and_actual(
    steps: Mapping[str, Mapping[str, Any]], samples: pl.DataFrame
) -> dict[str, dict[str, Any]]:
    """Return name -> planned and actual figures; the plan is that of the last attempt, over what remained."""
    plan, infer = steps.get("plan", {}), steps.get("infer", {})
    device = DeviceProfile(**infer["device"]) if infer.get("device") else None
    compute, memory = plan.get("compute_seconds"), plan.get("memory_seconds")
    # Plans of earlier versions have no simulated duration: the sums alone leave out the weights.
    paired = device.pair_seconds(compute, memory) if device and compute and memory else None
    predicted = plan.get("predicted") or {"seconds": paired}
    return {
        "requests": {"planned": plan.get("remaining"), "actual": infer.get("computed_answers")},
        "output_tokens": {
            "planned": plan.get("estimated_output_tokens"),
            "actual": int(samples["decode_tokens"].cast(pl.Int64).sum())
            if samples.height
            else infer.get("output_tokens"),
        },
        "prefill_tokens": {
            "planned": plan["prompt_tokens"] - plan["saved_tokens"] if "saved_tokens" in plan else None,
            "actual": infer.get("prefill_tokens"),
        },
        "compute_seconds": {"planned": compute, "actual": infer.get("modelled_compute_seconds")},
        "memory_seconds": {"planned": memory, "actual": infer.get("modelled_memory_seconds")},
        "engine_seconds": {"planned": predicted["seconds"], "actual": infer.get("engine_seconds")},
        "steps": {"planned": predicted.get("steps"), "actual": infer.get("steps")},
        "hit_rate": {
            "planned": infer.get("hit_rate_optimum", plan.get("hit_rate_optimum")),
            "actual": infer.get("hit_rate"),
        },
        "recomputed_tokens": {"planned": None, "actual": infer.get("recomputed_tokens")},
    }
