"""Lengths of answers from night to night: what a run leaves behind about its own, and finds of earlier ones.

A run leaves one table `lengths`: per answer its workload, length, and hashes of what its prompt began with.
Texts and prompts of earlier nights are not read again.
"""

from __future__ import annotations

import hashlib
import logging
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from engine.plan.features import LEVELS, Features, prefix_keys
from engine.plan.length_model import History
from tasks.base.schema import SCHEMAS
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS
from tasks.runlog.parts import fetch
from tasks.runlog.past_runs import published_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from tasks.night.night import Night
    from tasks.plan.work import NightWork
    from tasks.runlog.log import RunLog

log = logging.getLogger(__name__)

NIGHTS: Final = 7
"""Earlier nights that are looked at."""
FADING: Final = 0.8
"""A night's answers count this much of those of the night after it."""
ROWS: Final = 200_000
"""Answers taken of one night, evenly spread; a distribution is known long before."""


def workload_number(name: str) -> int:
    """Return the number that a workload has every night, below 2^63."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def workload_numbers(names: list[str]) -> npt.NDArray[np.int64]:
    """Return the numbers of workloads, int64 [n]."""
    known = {name: workload_number(name) for name in set(names)}
    return np.array([known[name] for name in names], np.int64)


def write_lengths(night: Night, work: NightWork) -> None:
    """Record the table `lengths` of a run whose requests are all answered, if any is."""
    outputs = night.read_table("outputs", ["request_id", "endpoint", "usage", "finish_reason", "choices"])
    answers = pl.DataFrame(pl.from_arrow(outputs))
    # Embeddings are no answers of length 0.
    answers = answers.filter(pl.col("endpoint") != EMBEDDINGS).select(
        "request_id",
        (
            pl.col("usage").struct.field("completion_tokens")
            // pl.col("choices").list.len().fill_null(1).clip(lower_bound=1)
        )
        .cast(pl.Int32)
        .alias("output_tokens"),
        (pl.col("finish_reason") == "stop").alias("ended"),
    )
    prompts = pl.DataFrame(
        {
            "request_id": [row["request_id"] for row in work.rows],
            "workload": [row["workload"] for row in work.rows],
            "input_tokens": np.diff(work.offsets).astype(np.int32),
            "prefix_hashes": prefix_keys(work.tokens, work.offsets, np.array(LEVELS, np.int64)),
        },
        schema_overrides={"workload": pl.String, "request_id": pl.String},
    ).with_columns(pl.col("prefix_hashes").cast(pl.List(pl.UInt64)))
    found = prompts.join(answers, on="request_id").sort("request_id")
    if found.is_empty():
        return
    path: Path = night.scratch / "lengths.parquet"
    schema = SCHEMAS["lengths"]
    pq.write_table(found.select(schema.names).to_arrow().cast(schema), path, compression="zstd")
    night.log.write_part("lengths", path, ext="parquet", count=found.height)


def read_history(night: Night) -> History | None:
    """Return the lengths of the job's last published nights before this one with the same model, if any."""
    tables = []
    for age, run_log in enumerate(_earlier_runs(night)):
        weight = FADING**age
        for part in run_log.state.parts_of("lengths"):
            rows = pl.read_parquet(fetch(run_log, part, night.scratch / "history"))
            step = -(-rows.height // ROWS)
            tables.append(rows.gather_every(step).with_columns(pl.lit(weight * step).alias("weight")))
    if not tables:
        return None
    rows = pl.concat(tables)
    log.info("lengths of %d answers of earlier nights", rows.height)
    return History(
        Features(
            group=workload_numbers(rows["workload"].to_list()),
            keys=rows["prefix_hashes"].list.to_array(len(LEVELS)).to_numpy().astype(np.uint64),
            prompt=rows["input_tokens"].to_numpy().astype(np.int64),
        ),
        length=rows["output_tokens"].to_numpy().astype(np.float64),
        ended=rows["ended"].to_numpy().astype(np.int8),
        weight=rows["weight"].to_numpy().astype(np.float64),
    )


def _earlier_runs(night: Night) -> Iterator[RunLog]:
    """Yield the logs of the runs that are published for the last dates before this one, latest first."""
    model = night.attempt.params.get("model")
    runs = published_runs(night.store, night.job, before=night.run_date.isoformat())
    found = 0
    for run in islice(runs, 2 * NIGHTS):
        attempt = run.log.state.attempt
        # Another model's answers have other lengths.
        if attempt is not None and attempt.params.get("model") == model:
            found += 1
            yield run.log
        if found == NIGHTS:
            return
