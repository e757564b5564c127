"""A run that no engine has computed: its night, held, and parts of it written from columns."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.schema import SCHEMAS
from tasks.night.night import Night, NightSettings
from tasks.runlog.log import RunLog
from tasks.runlog.places import run_prefix
from tasks.store.folder import FolderStore

if TYPE_CHECKING:
    from pathlib import Path

JOB, DAY, KEY = "bench", date(2026, 1, 2), "0123456789abcdef"
AT = datetime(2026, 1, 3, tzinfo=UTC)


def table(kind: str, columns: dict[str, Any]) -> pa.Table:
    """Return a table of this kind; columns that are not given are empty."""
    count = len(next(iter(columns.values())))
    arrays = []
    for field in SCHEMAS[kind]:
        values = columns.get(field.name)
        array = pa.nulls(count, field.type) if values is None else pa.array(values)
        arrays.append(array.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[kind])


def write_part(night: Night, kind: str, rows: pa.Table) -> str:
    """Write rows as a part of the run, and return its name."""
    path = night.scratch / f"{kind}.parquet"
    pq.write_table(rows, path, compression="zstd")
    return night.log.write_part(kind, path, ext="parquet", count=rows.num_rows).name


class MadeUpRun:
    """The run of the benchmark, held for the length of the block."""

    def __init__(self, folder: Path) -> None:
        store = FolderStore(folder / "store")
        scratch, model = folder / "scratch", folder / "model"
        scratch.mkdir(exist_ok=True)
        model.mkdir(exist_ok=True)
        log = RunLog(store, run_prefix(JOB, DAY.isoformat(), KEY), lease_s=60.0, heartbeat_s=10.0)
        self._hold = log.hold(take_over=True)
        settings = NightSettings(catalog=f"sqlite:///{folder}/store/_warehouse/catalog.db")
        self._made = lambda: Night(
            JOB, DAY, KEY, store, log, log.open_attempt(policy="blend"), model, scratch, settings
        )

    def __enter__(self) -> Night:
        self._hold.__enter__()
        return self._made()

    def __exit__(self, *error: object) -> None:
        self._hold.__exit__(*error)
