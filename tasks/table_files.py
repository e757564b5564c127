"""Rows to Parquet files, in bounded memory."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
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


_TEXTS: Final = ("messages_json", "prompt")


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
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES[1:]}
        # Values in the order of the columns.
        self._requests: list[list[Any]] = []
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
        self._bytes += sum([line.length for line in drafts.lines])
        if not any(drafts.errors):
            self._requests += drafts.rows
        else:
            for index, (row, error) in enumerate(zip(drafts.rows, drafts.errors, strict=True)):
                if error is None:
                    self._requests.append(row)
                else:
                    self._rows["errors"].append(error_row(drafts.row(index), error))
        self._rows["quarantine"] += drafts.quarantine
        held = max(len(self._requests), *map(len, self._rows.values()))
        if self._bytes >= FLUSH_BYTES or held >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._requests:
            self._write("requests", list(zip(*self._requests, strict=True)))
            self._requests = []
        for table, rows in self._rows.items():
            if rows:
                names = SCHEMAS[table].names
                self._write(table, [[row.get(name) for row in rows] for name in names])
                rows.clear()
        self._bytes = 0

    def _write(self, table: str, columns: Sequence[Sequence[Any]]) -> None:
        schema = SCHEMAS[table]
        if table not in self._writers:
            self.files[table] = self._folder / f"{table}{self._name}.parquet"
            writer = pq.ParquetWriter(
                self.files[table],
                schema,
                compression={name: _compression(name) for name in schema.names},
                use_dictionary=[name for name in _REPEATING if name in schema.names],
                write_statistics=False,
            )
            self._writers[table] = self._stack.enter_context(writer)
        self._writers[table].write_table(to_table(columns, schema))


def _compression(column: str) -> str:
    """Return how a column is packed.

    These rows are read once: snappy takes a third of the time of zstd at level 1 for twice the size, and for
    the texts, nearly all of the bytes, not even that pays.
    """
    return "none" if column in _TEXTS else "snappy"


def to_table(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return columns of values as a table of a schema."""
    arrays = []
    for column, values in zip(schema, columns, strict=True):
        first = values[0]
        if (first is None or isinstance(first, str)) and values.count(first) == len(values):
            arrays.append(pa.repeat(pa.scalar(first, column.type), len(values)))
        elif column.type == pa.string() and isinstance(first, bytes) and set(map(type, values)) == {bytes}:
            arrays.append(_joined(values))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _joined(texts: Sequence[bytes]) -> pa.Array:
    """Return UTF-8 texts as an array: a single copy, and no text is looked at."""
    offsets = np.zeros(len(texts) + 1, np.int32)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
