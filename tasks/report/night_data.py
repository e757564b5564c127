"""What a report of a night is made from, read from its run log and parts and summed up to a bounded size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from engine.cost.step import DeviceProfile, ModelShape
from engine.plan.scan import RESERVE
from engine.runtime.settings import EngineSettings
from tasks.report.inspect_run import lengths, planned_and_actual, replicas_of
from tasks.report.lanes import Lanes, lanes_of
from tasks.report.orders import Orders, compare_orders
from tasks.report.plots import log_edges
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import split_inputs
from tasks.runlog.parts import fetch, read_conforming, read_steps, read_table, request_parts
from tasks.store.contract import plain_path
from tasks.warehouse.utilization import measured_over_time, over_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from tasks.runlog.log import RunLog

    Floats = npt.NDArray[np.float64]

BINS: Final = 160
"""Most stretches of time that a run is shown in."""
CELLS: Final = 48
"""Of the map of lengths, along each side."""
MOST_WORKLOADS: Final = 12


@dataclass(frozen=True)
class LengthMap:
    """Requests by prompt and answer length: float64 [x, y], and the edges of its cells, in tokens."""

    counts: Floats
    prompt_edges: Floats
    output_edges: Floats


@dataclass(frozen=True)
class NightData:
    """A night, summed up.

    Attributes
    ----------
    summary
        As `tasks.publish.summary.summarise` has it; empty for a run that was not published yet.
    steps
        Results of the steps that the log has, by name.
    timeline, measured
        Steps and the device's own counters over stretches of `stretch_s`; `measured` may be empty.
    densities
        Rows of workload, requests and the 10th, 50th and 90th percentile of the density of what was computed,
        those with most work first.
    estimates
        Expected against true answer lengths (`tasks.report.inspect_run.lengths`).
    planned
        Name -> planned and actual (`tasks.report.inspect_run.planned_and_actual`).
    replicas
        Rows of `tasks.base.replicas.by_replica`.
    lanes
        What several replicas did over time; None of one.
    """

    job: str
    run_date: str
    run_key: str
    status: str
    policy: str
    summary: Mapping[str, Any]
    steps: Mapping[str, Mapping[str, Any]]
    timeline: pl.DataFrame
    measured: pl.DataFrame
    stretch_s: int
    densities: list[dict[str, Any]]
    length_map: LengthMap | None
    estimates: list[dict[str, Any]]
    planned: Mapping[str, Mapping[str, Any]]
    orders: Orders | None
    replicas: list[dict[str, Any]] = field(default_factory=list)
    lanes: Lanes | None = None


def read_night(
    log: RunLog, folder: Path, summary: Mapping[str, Any], *, with_orders: bool = True
) -> NightData:
    """Read a run.

    Parameters
    ----------
    log
        Read to its end.
    folder
        Local, for parts.
    with_orders
        Whether to simulate the other orders.
    """
    state = log.state
    results = {name: step.results for name, step in state.steps.items()}
    infer = results.get("infer", {})
    device = DeviceProfile(**infer["device"]) if infer.get("device") else None
    shape = ModelShape(**infer["shape"]) if infer.get("shape") else None
    samples = read_steps(log, folder)
    counters, profiles, outputs = (
        pl.DataFrame(pl.from_arrow(read_table(log, kind, folder, columns)))
        for kind, columns in (
            ("device_samples", None),
            ("profiles", ["request_id", "estimated_output_tokens", "output_length_source"]),
            ("outputs", ["request_id", "workload", "usage", "run_key", "answer_key", "finished_at"]),
        )
    )
    usage = outputs.select(pl.exclude("usage"), pl.col("usage").struct.unnest())
    stretch = _stretch(samples)
    job, run_date, run_key = _names(log)
    # Answers of other runs were not computed; equal requests that share one have the same end.
    computed = usage.filter(pl.col("run_key") == run_key).unique(
        ["answer_key", "finished_at"], keep="first", maintain_order=True
    )
    return NightData(
        job=job,
        run_date=run_date,
        run_key=run_key,
        status=str(summary.get("status") or (state.ended.status if state.ended else "unended")),
        policy=str(summary.get("policy") or (state.attempt.policy if state.attempt else "")),
        summary=summary,
        steps=results,
        timeline=over_time(samples, device, stretch),
        measured=measured_over_time(counters, stretch),
        stretch_s=stretch,
        densities=_densities(computed, shape, device),
        length_map=_length_map(usage),
        estimates=lengths(profiles, outputs),
        planned=planned_and_actual(results, samples),
        orders=_orders(log, folder, infer, computed, profiles, shape, device) if with_orders else None,
        replicas=replicas_of(results, samples),
        lanes=lanes_of(samples),
    )


def _names(log: RunLog) -> tuple[str, str, str]:
    """Return job, date and key of a run by its place; the store may begin anywhere above it."""
    job, _, run_date, run_key = plain_path(log.store.object_uri(log.prefix)).split("/")[-4:]
    return job, run_date.removeprefix("run_date="), run_key


def _stretch(samples: pl.DataFrame) -> int:
    """Return the whole seconds of a stretch, so that a run has at most `BINS` of them."""
    if samples.is_empty():
        return 1
    begin = samples["started_at"].dt.timestamp("us") / 1e6
    span = float((begin + samples["seconds"]).max() or 0.0) - float(begin.min() or 0.0)  # type: ignore[arg-type]
    return max(1, int(np.ceil(span / BINS)))


def _densities(
    usage: pl.DataFrame, shape: ModelShape | None, device: DeviceProfile | None
) -> list[dict[str, Any]]:
    if shape is None or device is None or usage.is_empty():
        return []
    if usage["cached_tokens"].null_count():
        return []
    p, c, d = (
        usage[name].to_numpy().astype(np.float64)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    )
    compute = shape.request_flops(p, c, d) / device.flops
    memory = shape.request_kv_bytes(p, np.maximum(d, 1.0)) / device.read_bytes
    rows = usage.select("workload").with_columns(
        pl.Series("work", compute + memory), pl.Series("density", compute / memory)
    )
    quantile = pl.col("density").quantile
    found = (
        rows.group_by("workload")
        .agg(
            pl.len().alias("requests"),
            pl.sum("work"),
            *(quantile(q, "linear").alias(f"p{100 * q:.0f}") for q in (0.1, 0.5, 0.9)),
        )
        .sort("work", descending=True)
        .head(MOST_WORKLOADS)
    )
    return found.drop("work").to_dicts()


def _length_map(usage: pl.DataFrame) -> LengthMap | None:
    if usage.is_empty():
        return None
    x, y = (
        np.maximum(usage[name].to_numpy().astype(np.float64), 1.0)
        for name in ("prompt_tokens", "completion_tokens")
    )
    edges = log_edges(x, CELLS), log_edges(y, CELLS)
    return LengthMap(np.histogram2d(x, y, bins=edges)[0], *edges)


def _orders(
    log: RunLog,
    folder: Path,
    infer: Mapping[str, Any],
    computed: pl.DataFrame,
    profiles: pl.DataFrame,
    shape: ModelShape | None,
    device: DeviceProfile | None,
) -> Orders | None:
    if "tokenize" not in log.state.steps or shape is None or device is None or not infer.get("kv_tokens"):
        return None
    table, tokens, offsets_file = (fetch(log, part, folder) for part in request_parts(log.state))
    columns = ["request_id", "workload", "endpoint", "settings_json"]
    known = read_conforming([table], "requests", columns)
    for frame, column in ((computed, "completion_tokens"), (profiles, "estimated_output_tokens")):
        one = frame.select("request_id", column)
        known = known.join(one, on="request_id", how="left", maintain_order="left")
    # A prompt that is embedded ends with its own last row, as one with an answer of one token does.
    ended = pl.col("completion_tokens").clip(lower_bound=pl.col("endpoint").eq(EMBEDDINGS).cast(pl.Int32))
    known = known.with_columns(ended)
    owner, offsets = split_inputs(known["settings_json"].to_list(), np.load(offsets_file))
    known = known[owner]
    settings = infer["engine_settings"]
    return compare_orders(
        np.load(tokens, mmap_mode="r"),
        offsets,
        known["completion_tokens"].fill_null(0).to_numpy().astype(np.int64),
        known["estimated_output_tokens"].fill_null(1.0).to_numpy().astype(np.float64),
        known["workload"].rank("dense").to_numpy().astype(np.int64),
        shape,
        device,
        EngineSettings(
            kv_tokens=int(infer["kv_tokens"]),
            page_size=settings["page_size"],
            token_budget=max(settings["token_budget"], settings["max_sequences"]),
            max_sequences=settings["max_sequences"],
            pacing=settings.get("pacing", False),
        ),
        seed=settings["run_seed"],
        reserve=settings.get("reserve", RESERVE),
    )
