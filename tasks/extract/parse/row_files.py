"""Rows to Parquet files, in bounded memory."""

from __future__ import annotations

from binascii import hexlify
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.schema import SCHEMAS, error_row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from tasks.extract.parse.drafts import Drafts
    from tasks.extract.parse.quick_lines import QuickRows

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


class RowFiles:
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
        rows = drafts.rows
        if any(drafts.errors):
            rows = []
            for index, (row, error) in enumerate(zip(drafts.rows, drafts.errors, strict=True)):
                if error is None:
                    rows.append(row)
                else:
                    self._rows["errors"].append(error_row(drafts.row(index), error))
        self._rows["quarantine"] += drafts.quarantine
        if drafts.quick is not None:
            self._add_quick(drafts.quick, rows)
        else:
            self._requests += rows
        held = max(len(self._requests), *map(len, self._rows.values()))
        if self._bytes >= FLUSH_BYTES or held >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._requests:
            self._write("requests", _requests_table(self._requests))
            self._requests = []
        for table, rows in self._rows.items():
            if rows:
                schema = SCHEMAS[table]
                self._write(
                    table, to_table([[row.get(name) for row in rows] for name in schema.names], schema)
                )
                rows.clear()
        self._bytes = 0

    def _add_quick(self, quick: QuickRows, rows: list[list[Any]]) -> None:
        """Write the rows of a block at once, with those of the general way, in the order of their lines."""
        if self._requests:
            self._write("requests", _requests_table(self._requests))
            self._requests = []
        table = quick_table(quick)
        if rows:
            table = pa.concat_tables([_requests_table(rows), table])
            order = np.argsort(table.column("source_line").to_numpy(), kind="stable")
            table = table.take(pa.array(order))
        if len(table):
            self._write("requests", table)

    def _write(self, name: str, table: pa.Table) -> None:
        if name not in self._writers:
            self.files[name] = self._folder / f"{name}{self._name}.parquet"
            columns = table.schema.names
            writer = pq.ParquetWriter(
                self.files[name],
                table.schema,
                compression={column: _compression(column) for column in columns},
                use_dictionary=[column for column in _REPEATING if column in columns],
                write_statistics=False,
            )
            self._writers[name] = self._stack.enter_context(writer)
        self._writers[name].write_table(table)


def _compression(column: str) -> str:
    """Return how a column is packed.

    These rows are read once: snappy takes a third of the time of zstd at level 1 for twice the size, and for
    the texts, nearly all of the bytes, not even that pays.
    """
    return "none" if column in _TEXTS else "snappy"


def _requests_table(rows: Sequence[Sequence[Any]]) -> pa.Table:
    return to_table(list(zip(*rows, strict=True)), SCHEMAS["requests"])


def to_table(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return columns of values as a table of a schema."""
    arrays = []
    for column, values in zip(schema, columns, strict=True):
        first = values[0]
        if (first is None or isinstance(first, str)) and values.count(first) == len(values):
            arrays.append(pa.repeat(pa.scalar(first, column.type), len(values)))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def quick_table(quick: QuickRows) -> pa.Table:
    """Return rows by column as a table: hardly a copy, and no text is looked at."""
    count = len(quick)
    columns = {
        "request_id": _hex(quick.ids),
        "answer_key": _hex(quick.answers),
        "custom_id": _strings(quick.names, quick.name_ends),
        "messages_json": _strings(quick.messages, quick.message_ends),
        "source_line": pa.array(quick.numbers),
        "duplicate_of": pa.nulls(count, pa.string()),
    }
    if quick.duplicate_of:
        firsts: list[str | None] = [None] * count
        for row, first in quick.duplicate_of.items():
            firsts[row] = first
        columns["duplicate_of"] = pa.array(firsts, pa.string())
    schema = SCHEMAS["requests"]
    frame_of = pa.array(quick.frame_of)
    for column in schema:
        if column.name in columns:
            continue
        if column.name in quick.own:
            columns[column.name] = pa.array(quick.own[column.name], column.type)
            continue
        values = [frame.values.get(column.name) for frame in quick.frames]
        if all(value is None for value in values):
            columns[column.name] = pa.nulls(count, column.type)
        else:
            columns[column.name] = pa.array(values, column.type).take(frame_of)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _strings(data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> pa.Array:
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data))


def _hex(digests: npt.NDArray[np.uint8]) -> pa.Array:
    ends = np.arange(len(digests) + 1, dtype=np.int64) * 2 * digests.shape[1]
    return _strings(np.frombuffer(hexlify(digests.data), np.uint8), ends)
