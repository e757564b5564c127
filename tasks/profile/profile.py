"""Profile: what each request will cost, and how that is distributed over the workloads of a night.

Figures per request come from the resource model after sharing (`engine.cost.step`, `engine.plan.tree`), for
the datasheet or nominal device, so that the same requests give the same profile on every machine.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from engine.choices import ENDPOINT
from engine.cost.devices import ELEMENT_BYTES, model_shape
from engine.cost.step import NOMINAL
from engine.models.config import load_config
from engine.plan.lengths import estimate_lengths
from engine.plan.tree import build_tree, cached_tokens, hit_rate_optimum, node_costs
from tasks.base.errors import ConfigurationError
from tasks.base.identity import digest_ids
from tasks.base.schema import SCHEMAS
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.requests.embeddings import split_inputs
from tasks.runlog.parts import read_conforming, request_parts

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from tasks.night.night import Night
    from tasks.runlog.records import Part

log = logging.getLogger(__name__)

_COLUMNS: Final = [
    *("request_id", "workload", "endpoint", "input_tokens", "max_tokens", "observed_output_tokens"),
    "settings_json",
]
PREFILL_ONLY: Final = "prefill only"
"""Source of an expected length that is known to be 0."""


def profile(night: Night) -> dict[str, Any]:
    """Write the table `profiles` of a run and record step `profile`.

    Returns
    -------
    dict
        Results of the step: `requests`, `device`, `hit_rate_optimum`, `length_sources` (requests by source of
        their expected length) and `workloads`, by name `{count, input_tokens, output_tokens, density}` with
        means and quantiles. Those of before, if the log has the step already.
    """
    known = night.log.state.steps.get("profile")
    if known is not None:
        return known.results
    table, tokens, offsets = _read_requests(night)
    config = load_config(night.model_dir)
    devices = [*NOMINAL, "cuda", ENDPOINT]
    if night.settings.device.partition(":")[0] not in devices or night.settings.dtype not in ELEMENT_BYTES:
        field, value = "--device", night.settings.device
        choices = ", ".join(devices)
        if value.partition(":")[0] in devices:
            field, value, choices = "--dtype", night.settings.dtype, ", ".join(ELEMENT_BYTES)
        raise ConfigurationError(field, f"{value!r} is unknown", f"Choose one of {choices}")
    device = night.settings.planned_on
    shape = model_shape(config, night.settings.dtype, night.settings.kv_dtype)

    limit = table["max_tokens"].fill_null(night.settings.defaults.max_tokens).to_numpy().astype(np.int64)
    room = np.maximum(config.max_positions - np.diff(offsets), 1)
    length, source = estimate_lengths(
        table["observed_output_tokens"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
        np.minimum(limit, room),
        table["workload"].rank("dense").to_numpy().astype(np.int64),
    )
    embeds = (table["endpoint"] == EMBEDDINGS).to_numpy()
    length[embeds] = 0.0
    source = np.where(embeds, PREFILL_ONLY, source)
    if table.height:
        owner, starts = split_inputs(table["settings_json"].to_list(), offsets)
        tree = build_tree(tokens, starts)
        _, *costs = node_costs(tree, length[owner], shape, device.flops, device.read_bytes)
        summed = [np.bincount(owner, each, table.height) for each in costs]
        compute, memory = (np.asarray(each, np.float64) for each in summed)
        cached = np.bincount(owner, cached_tokens(tree), table.height).astype(np.int64)
        optimum = hit_rate_optimum(tree)
    else:
        compute = memory = np.zeros(0)
        cached, optimum = np.zeros(0, np.int64), 0.0
    rows = table.select("request_id", "workload").with_columns(
        pl.Series("input_tokens", np.diff(offsets), pl.Int32),
        pl.Series("cached_tokens", cached, pl.Int32),
        pl.Series("estimated_output_tokens", length, pl.Float64),
        pl.Series("output_length_source", source.tolist(), pl.String),
        pl.Series("compute_seconds", compute, pl.Float64),
        pl.Series("memory_seconds", memory, pl.Float64),
        # What is not decoded reads no KV.
        pl.Series("density", compute / np.maximum(memory, 1e-12), pl.Float64),
    )
    profiles = _write(night, rows)
    workloads = distribution(rows)
    results = {
        "requests": rows.height,
        "device": {"name": device.name, "source": device.source},
        "hit_rate_optimum": optimum,
        "length_sources": dict(rows.group_by("output_length_source").len().sort("len").iter_rows()),
        "workloads": workloads,
    }
    night.log.finish_step("profile", results, parts={"profiles": [profiles]})
    log.info("profiled %d requests of %d workloads", rows.height, len(workloads))
    return results


def distribution(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return means and quantiles per workload of a `profiles` frame, by name of the workload."""
    found = (
        rows.group_by("workload")
        .agg(
            pl.len().alias("count"),
            pl.struct(
                mean=pl.col("input_tokens").mean(),
                p50=pl.col("input_tokens").quantile(0.5, "linear"),
                p90=pl.col("input_tokens").quantile(0.9, "linear"),
            ).alias("input_tokens"),
            pl.struct(
                mean=pl.col("estimated_output_tokens").mean(),
                p50=pl.col("estimated_output_tokens").quantile(0.5, "linear"),
                p90=pl.col("estimated_output_tokens").quantile(0.9, "linear"),
            ).alias("output_tokens"),
            pl.struct(
                p10=pl.col("density").quantile(0.1, "linear"),
                p50=pl.col("density").quantile(0.5, "linear"),
                p90=pl.col("density").quantile(0.9, "linear"),
            ).alias("density"),
        )
        .sort("workload")
    )
    return {row.pop("workload"): row for row in found.to_dicts()}


def _read_requests(
    night: Night,
) -> tuple[pl.DataFrame, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    table, tokens, offsets = (night.fetch(part) for part in request_parts(night.log.state))
    rows = read_conforming([table], "requests", _COLUMNS)
    return rows, np.load(tokens, mmap_mode="r"), np.load(offsets)


def _write(night: Night, rows: pl.DataFrame) -> Part:
    path: Path = night.scratch / "profile" / "profiles.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS["profiles"]
    pq.write_table(rows.select(schema.names).to_arrow().cast(schema), path, compression="zstd")
    ids = rows["request_id"].to_list()
    return night.log.write_part(
        "profiles", path, ext="parquet", count=rows.height, ids_digest=digest_ids(ids)
    )
