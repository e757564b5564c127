"""Parts of a run, brought to this machine, and Parquet files that are written as they are read: in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.schema import SCHEMAS, conform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.runlog.log import RunLog
    from tasks.runlog.records import Part
    from tasks.runlog.state import RunState


BATCH_ROWS: Final = 4096
BATCH_BYTES: Final = 16 << 20
GROUP_BYTES: Final = 32 << 20
"""Bytes in memory of a row group: enough for readers to skip and compress well, little to hold."""


def batches(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a local part in the columns of `schema`.

    At most `BATCH_ROWS` at a time, and fewer of long rows, so that they are about `BATCH_BYTES`.
    """
    # What is read ahead of its use would stay in memory.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
            yield conform(pa.Table.from_batches([batch]), schema)


def _batch_rows(metadata: pq.FileMetaData) -> int:
    size: int = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(BATCH_ROWS, BATCH_BYTES * int(metadata.num_rows) // max(1, size)))


class GroupedWriter:
    """Writes a Parquet file in row groups of about `GROUP_BYTES`, however small the pieces that come.

    Parameters
    ----------
    path
        The file, complete when the block ends.
    schema
        Of every piece.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._held: list[pa.Table] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, rows: pa.Table) -> None:
        """Take the next rows."""
        self._held.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held))
        self._held, self._bytes = [], 0


def read_conforming(files: Sequence[Path], kind: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the rows of local parts of `kind` (a name of `SCHEMAS`), whatever version wrote them.

    Of `columns` alone, if they are given.
    """
    schema = _schema_of(kind, columns)
    tables = [schema.empty_table()]
    for path in files:
        known = set(pq.read_schema(path).names)
        tables.append(conform(pq.read_table(path, columns=[c for c in schema.names if c in known]), schema))
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))


def _schema_of(kind: str, columns: Sequence[str] | None) -> pa.Schema:
    return SCHEMAS[kind] if columns is None else pa.schema([SCHEMAS[kind].field(c) for c in columns])


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


def request_parts(state: RunState) -> list[Part]:
    """Return the parts that step `tokenize` names as the run's requests: table, tokens, offsets.

    A killed attempt may have left others of their kind in the log.

    Raises
    ------
    RuntimeError
        If step `tokenize` is not in the log.
    """
    step = state.steps.get("tokenize")
    if step is None:
        raise RuntimeError("step tokenize is not in the run log")
    return [state.parts[name] for name in step.results["parts"]]


def images_part(state: RunState) -> Part | None:
    """Return the part with the images of the run's requests; None if they have none."""
    step = state.steps.get("tokenize")
    name = None if step is None else step.results.get("images")
    return None if name is None else state.parts[name]


def read_steps(log: RunLog, folder: Path) -> pl.DataFrame:
    """Return the rows of the table `steps` in the order of time, with the column `attempt_id`."""
    found = [
        read_conforming([fetch(log, part, folder)], "steps").with_columns(attempt_id=pl.lit(part.attempt_id))
        for part in log.state.parts_of("steps")
    ]
    none = read_conforming([], "steps").with_columns(attempt_id=pl.lit("", pl.String))
    return pl.concat([none, *found]).sort("started_at", "step", maintain_order=True)


def read_table(log: RunLog, kind: str, folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return all rows of the Parquet parts of `kind` (a name of `SCHEMAS`), in log order."""
    schema = _schema_of(kind, columns)
    tables = [schema.empty_table()]
    for part in log.state.parts_of(kind):
        if part.name.endswith(".parquet"):
            with pq.ParquetFile(fetch(log, part, folder)) as file:
                found = [name for name in schema.names if name in file.schema_arrow.names]
                tables.append(conform(file.read(columns=found), schema))
    return pa.concat_tables(tables)
