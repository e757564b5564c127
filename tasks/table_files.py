"""Rows to Parquet files, in bounded memory."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.schema import SCHEMAS, error_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.object_parser import Drafts

TABLES: Final = ("requests", "errors", "quarantine")
FLUSH_ROWS: Final = 4096
FLUSH_BYTES: Final = 16 << 20
# Columns that repeat; a dictionary of any other is built for nothing.
_REPEATING: Final = (
    "job",
    "workload",
    "tenant",
    "source_uri",
    "endpoint",
    "requested_model",
    "code",
    "field",
    "message",
)


class TableFiles:
    """One Parquet file per table that has rows; use it as a context manager.

    Attributes
    ----------
    files : dict
        Table -> its file, complete when the block ends without an error.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        self.files: dict[str, Path] = {}
        self._folder, self._name = folder, name
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self._bytes = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self.flush()

    def add(self, drafts: Drafts) -> None:
        """Add the rows of settled drafts."""
        requests, errors = self._rows["requests"], self._rows["errors"]
        for draft in drafts.requests:
            self._bytes += draft.line.length
            if draft.error is None:
                requests.append(draft.row)
            else:
                errors.append(error_row(draft.row, draft.error))
        self._rows["quarantine"] += drafts.quarantine
        if self._bytes >= FLUSH_BYTES or any(len(rows) >= FLUSH_ROWS for rows in self._rows.values()):
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        for table, rows in self._rows.items():
            if not rows:
                continue
            if table not in self._writers:
                self.files[table] = self._folder / f"{table}{self._name}.parquet"
                schema = SCHEMAS[table]
                writer = pq.ParquetWriter(
                    self.files[table],
                    schema,
                    compression="zstd",
                    compression_level=1,
                    use_dictionary=[name for name in _REPEATING if name in schema.names],
                    write_statistics=False,
                )
                self._writers[table] = self._stack.enter_context(writer)
            self._writers[table].write_table(to_table(rows, SCHEMAS[table]))
            rows.clear()
        self._bytes = 0


def to_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; what a row lacks is null."""
    columns = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        first = values[0]
        if values.count(first) == len(values) and (first is None or isinstance(first, str)):
            columns.append(pa.repeat(pa.scalar(first, column.type), len(values)))
        else:
            columns.append(pa.array(values, column.type))
    return pa.Table.from_arrays(columns, schema=schema)
