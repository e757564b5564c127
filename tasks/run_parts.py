"""Parts of a run, brought to this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.schema import SCHEMAS, conform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.runlog import RunLog
    from tasks.runrecords import Part


BATCH_ROWS: Final = 4096


def batches(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a local part in the columns of `schema`, `BATCH_ROWS` at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield conform(pa.Table.from_batches([batch]), schema)


def fetch(log: RunLog, part: Part, folder: Path) -> Path:
    """Bring a part below `folder`, verified, and return its path; it is fetched only once.

    Raises
    ------
    LogFormatError
        If it is not what was recorded.
    """
    path = folder / part.name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        log.fetch_part(part, path)
    return path


def read_table(log: RunLog, kind: str, folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return all rows of the Parquet parts of `kind` (a name of `SCHEMAS`), in log order."""
    schema = SCHEMAS[kind] if columns is None else pa.schema([SCHEMAS[kind].field(c) for c in columns])
    tables = [schema.empty_table()]
    for part in log.state.parts_of(kind):
        if part.name.endswith(".parquet"):
            with pq.ParquetFile(fetch(log, part, folder)) as file:
                found = [name for name in schema.names if name in file.schema_arrow.names]
                tables.append(conform(file.read(columns=found), schema))
    return pa.concat_tables(tables)
