"""Which requests of a date belong to a share: by a hash that stays the same from night to night."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from tasks.base.schema import SCHEMAS
from tasks.night.request import REQUEST, TENANT, WORKLOAD
from tasks.runlog.parts import GroupedWriter, batches

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.night.request import Side

PARTS: Final = 1 << 32
COLUMN: Final = {TENANT: "tenant", WORKLOAD: "workload", REQUEST: "request_id"}
"""What the hash is of -> its column; requests without a tenant are one tenant."""


def part_of(job: str, value: str | None) -> float:
    """Return where a value lies between 0 and 1: the same for a job every night, another for another job."""
    digest = hashlib.sha256(f"{job}\0{value or ''}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / PARTS


def in_share(job: str, side: Side, values: pl.Series) -> pl.Series:
    """Tell of each value (tenants, workloads or request ids) whether it belongs to a share."""
    parts = {value: part_of(job, value) for value in values.unique().to_list()}
    return pl.Series([parts[value] < side.percent / 100.0 for value in values.to_list()], dtype=pl.Boolean)


def only_share(job: str, side: Side, files: list[Path], folder: Path) -> list[Path]:
    """Write the requests of a share, of each file to one of its own below `folder`."""
    schema = SCHEMAS["requests"]
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["request_id", COLUMN[side.by]]
    wanted: set[str] = set()
    for path in files:
        rows = pl.read_parquet(path, columns=list(dict.fromkeys(columns)))
        wanted.update(rows.filter(in_share(job, side, rows[COLUMN[side.by]]))["request_id"].to_list())
    if side.most is not None:
        # Names are hashes: the first of them are spread evenly over everything else.
        wanted = set(sorted(wanted)[: side.most])
    chosen = pa.array(sorted(wanted), pa.string())
    found = []
    for place, path in enumerate(files):
        out = folder / f"share-{place:06d}.parquet"
        with GroupedWriter(out, schema) as writer:
            for part in batches(path, schema):
                writer.write(part.filter(pc.is_in(part.column("request_id"), value_set=chosen)))
        found.append(out)
    return found
