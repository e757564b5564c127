"""The results of step infer: sums over the durable steps and answers of a run, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from engine.cost.devices import model_shape
from engine.cost.metrics import density, idle_tail_seconds, mbu, mfu, overlap_fraction, useful_seconds
from engine.cost.optimum import optimum
from engine.cost.step import DeviceProfile, step_cost
from engine.models.config import load_config
from engine.plan.tree import build_tree, cached_tokens, hit_rate_optimum
from tasks.base.replicas import by_replica
from tasks.base.schema import SCHEMAS
from tasks.requests.embeddings import input_lengths
from tasks.runlog.parts import read_steps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.arrays import Float64
    from engine.cost.step import ModelShape
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

_SUMS: Final = (
    "prefill_tokens",
    "decode_tokens",
    "recomputed_tokens",
    "retractions",
    "evicted_pages",
    "modelled_compute_seconds",
    "modelled_memory_seconds",
)
_LATER_SUMS: Final = ("modelled_seconds", "model_flops", "model_bytes")
"""Columns that steps of earlier versions do not have: one of them makes the sum unknown."""


def run_totals(
    night: Night, work: NightWork, device: dict[str, Any], kv_tokens: int | None, held: Mapping[int, float]
) -> dict[str, Any]:
    """Add up what is durable of a run, and record its table `work`.

    Parameters
    ----------
    device
        Profile of the device, as the engine sent it; empty if none was started, or it told none.
    kv_tokens
        KV memory of the engine; None if it does not tell it.
    held
        Replica -> seconds that this attempt's engines lived.
    """
    steps = read_steps(night.log, night.scratch)
    answers = _Answers(night, work)
    # Some engines do not tell their steps: nothing is known of them, which is not 0.
    told = night.engine.capabilities.steps
    totals: dict[str, Any] = {name: _sum(steps[name]) if told else None for name in _SUMS}
    totals |= {name: None if steps[name].null_count() else float(steps[name].sum()) for name in _LATER_SUMS}
    if not told:
        totals |= dict.fromkeys(_LATER_SUMS)
    profile = DeviceProfile(**device) if device else None
    seconds = float(steps["seconds"].sum())
    devices = profile.shards if profile else 1
    replicas = by_replica(steps, devices, held, night.attempt.id)
    return {
        **totals,
        "engine_seconds": seconds if told else None,
        "gpu_seconds_held": sum(row["gpu_seconds_held"] for row in replicas) if told else None,
        "gpu_seconds_busy": devices * seconds if told else None,
        "steps": steps.height if told else None,
        "by_replica": replicas if told else None,
        **answers.usage(),
        "finish_reasons": answers.reasons,
        "measured_energy_joules": _energy(night),
        "shape": asdict(_shape(night)),
        "engine_settings": {
            name: getattr(night.settings, name)
            for name in ("page_size", "token_budget", "max_sequences", "run_seed")
        }
        | _planned_steps(night),
        **_utilisation(night, steps, totals, profile),
        **answers.ideal(night, profile, kv_tokens),
    }


def _sum(column: pl.Series) -> Any:  # noqa: ANN401 - int or float, as the column
    # Polars adds integers of 32 bits up in 32 bits.
    return column.cast(pl.Int64).sum() if column.dtype.is_integer() else column.sum()


def _planned_steps(night: Night) -> dict[str, Any]:
    """Return the sizes of steps that the plan has chosen; nothing of a plan of an earlier version."""
    step = night.log.state.steps.get("plan")
    found = {} if step is None else step.results.get("step", {})
    return {
        name: found[name] for name in ("token_budget", "max_sequences", "pacing", "reserve") if name in found
    }


class _Answers:
    """The durable answers of a run, those apart that it computed itself."""

    def __init__(self, night: Night, work: NightWork) -> None:
        self._night, self._work = night, work
        self._input = self._output = 0
        self.reasons = {"stop": 0, "length": 0}
        first = {work.rows[rows[0]]["request_id"]: rows[0] for rows in work.members.values()}
        self._computed: list[int] = []
        lengths: list[tuple[int, int, int]] = []
        table = night.read_table("outputs", ["request_id", "usage", "finish_reason", "run_key"])
        for row in table.to_pylist():
            usage = row["usage"]
            self._input += usage["prompt_tokens"]
            self._output += usage["completion_tokens"]
            self.reasons[row["finish_reason"]] += 1
            if row["request_id"] in first and row["run_key"] == night.run_key:
                self._computed.append(first[row["request_id"]])
                lengths.append((usage["prompt_tokens"], usage["cached_tokens"], usage["completion_tokens"]))
        # What an engine has not told is not a number here.
        self._lengths = np.array(lengths, np.float64).reshape(-1, 3)
        # Over all attempts, like the hit rate: the plan's own figures are those of what remained.
        # Each input of a request for embeddings is a prompt of its own.
        inputs = [input_lengths(work.rows[i]) for i in self._computed]
        self._parts = np.array([1 if one is None else len(one) for one in inputs], np.int64)
        asked = [
            (i, choice)
            for i, parts in zip(self._computed, self._parts.tolist(), strict=True)
            for choice in range(parts)
        ]
        tokens, offsets = work.sequence_prompts(asked)
        self._prompt = np.diff(offsets).astype(np.float64)
        self._tree = build_tree(tokens, offsets) if asked else None

    def usage(self) -> dict[str, Any]:
        """Return tokens and hit rates."""
        prompt = int(self._lengths[:, 0].sum())
        cached = None if np.isnan(self._lengths[:, 1]).any() else int(self._lengths[:, 1].sum())
        return {
            "computed_answers": len(self._computed),
            "prompt_tokens": prompt,
            "hit_tokens": cached,
            "hit_rate": None if cached is None else cached / prompt if prompt else 0.0,
            "hit_rate_optimum": 0.0 if self._tree is None else hit_rate_optimum(self._tree),
            "input_tokens": self._input,
            "output_tokens": self._output,
        }

    def ideal(
        self, night: Night, device: DeviceProfile | None, kv_tokens: int | None
    ) -> dict[str, float | None]:
        """Record what the requests share the cost of the run by, and return `ideal_seconds`."""
        if device is None or self._tree is None or not kv_tokens or np.isnan(self._lengths).any():
            return {"ideal_seconds": None}
        shape = _shape(night)
        self._record_work(night, shape, device)
        best = cached_tokens(self._tree).astype(np.float64)
        # Of a prompt that is embedded a row comes out, as of one that has an answer of one token.
        d = np.repeat(np.maximum(self._lengths[:, 2], 1.0), self._parts)
        found = optimum(step_cost(shape, device), self._prompt, best, d, float(kv_tokens))
        return {"ideal_seconds": found.practical}

    def _record_work(self, night: Night, shape: ModelShape, device: DeviceProfile) -> None:
        work = self._work
        p, c, d = self._lengths.T
        choices = np.array(
            [(work.rows[i]["sampling"] or {}).get("n") or 1 for i in self._computed], np.float64
        )
        own = np.repeat(np.arange(len(p)), self._parts)
        # What an answer took from the cache is told of all its inputs together.
        cached = self._prompt * (c / np.maximum(p, 1.0))[own]
        flops = shape.request_flops(self._prompt, cached, d[own])
        compute = np.bincount(own, flops, len(p)) / device.flops
        memory = choices * shape.request_kv_bytes(p, d / choices) / device.read_bytes
        rows: list[tuple[str, str | None, float, float]] = []
        for place, i in enumerate(self._computed):
            # Requests that share an answer share its cost.
            members = work.members[work.key_of[i]]
            for member in members:
                row = work.rows[member]
                rows.append(
                    (
                        row["workload"],
                        row["tenant"],
                        float(compute[place]) / len(members),
                        float(memory[place]) / len(members),
                    )
                )
        names = ("workload", "tenant", "compute_seconds", "memory_seconds")
        kinds = (pl.String, pl.String, pl.Float64, pl.Float64)
        found = (
            pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")
            .group_by("workload", "tenant")
            .agg(pl.len().cast(pl.Int64).alias("requests"), pl.sum("compute_seconds", "memory_seconds"))
            .sort("workload", "tenant", nulls_last=True)
        )
        path: Path = night.scratch / "work.parquet"
        schema = SCHEMAS["work"]
        pq.write_table(found.select(schema.names).to_arrow().cast(schema), path, compression="zstd")
        night.log.write_part("work", path, ext="parquet", count=found.height)


def _shape(night: Night) -> ModelShape:
    settings = night.settings
    return model_shape(load_config(night.model_dir), settings.dtype, settings.kv_dtype)


def _energy(night: Night) -> float | None:
    joules = night.read_table("device_samples", ["measured_energy_joules"]).column(0)
    told = [value for value in joules.to_pylist() if value is not None]
    return float(sum(told)) if told else None


def _tails(steps: pl.DataFrame, useful: Float64) -> float:
    """Return the idle tails of all replicas, added up."""
    seconds, prefill = (steps[name].to_numpy() for name in ("seconds", "prefill_tokens"))
    replica = steps["replica"].fill_null(0).to_numpy()
    own = [replica == number for number in np.unique(replica)]
    return sum(idle_tail_seconds(seconds[i], prefill[i].astype(np.int64), useful[i]) for i in own)


def _utilisation(
    night: Night, steps: pl.DataFrame, totals: dict[str, Any], device: DeviceProfile | None
) -> dict[str, float | None]:
    """Return the figures of `engine.cost.metrics` that are about the run as a whole; None where unknown."""
    names = ("mfu", "mbu", "overlap_fraction", "density", "kv_occupancy", "idle_tail_seconds")
    flops, moved = totals["model_flops"], totals["model_bytes"]
    if device is None or steps.is_empty() or flops is None or moved is None:
        return dict.fromkeys(names)
    seconds = steps["seconds"].to_numpy()
    total = float(seconds.sum())
    compute, memory = totals["modelled_compute_seconds"], totals["modelled_memory_seconds"]
    useful = useful_seconds(
        _shape(night), device, steps["model_flops"].to_numpy(), steps["model_bytes"].to_numpy()
    )
    occupancy = steps["kv_occupancy"].to_numpy()
    return {
        "mfu": mfu(device, flops, total),
        "mbu": mbu(device, moved, total),
        "overlap_fraction": overlap_fraction(compute, memory, total),
        "density": density(compute, memory),
        "kv_occupancy": float(np.average(occupancy, weights=seconds)) if total > 0.0 else None,
        "idle_tail_seconds": _tails(steps, useful),
    }
