"""Rows of a Parquet file as records of what JSON has (`arrow_values`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.errors import QuarantineCode, QuarantineError
from tasks.extract.text.arrow_values import json_values
from tasks.extract.text.lines import RawLine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.extract.text.decode import Item

PARQUET_MAGIC: Final = b"PAR1"
_ROWS: Final = 512
_THRIFT_LIMIT: Final = 64 << 20
UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)
"""What a damaged Parquet file raises."""


class ParquetRows:
    """A Parquet file; raises one of `UNREADABLE` where it is damaged, here and later.

    Attributes
    ----------
    columns
        Their names.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(
            path,
            thrift_string_size_limit=_THRIFT_LIMIT,
            thrift_container_size_limit=_THRIFT_LIMIT,
            # In nanoseconds INT96 would wrap around beyond the years 1677 to 2262.
            coerce_int96_timestamp_unit="us",
        )
        self.columns: list[str] = self._file.schema_arrow.names

    def first(self) -> list[dict[str, Any]]:
        """Return the first row, none of an empty file."""
        batch = next(self._file.iter_batches(batch_size=1), None)
        rows = _rows(batch) if batch is not None else []
        return [{k: v for k, v in row.items() if not isinstance(v, QuarantineError)} for row in rows]

    def records(self, columns: Sequence[str] | None) -> Iterator[Item]:
        """Yield the rows, of these columns or of all; then the file is closed."""
        chosen = None if columns is None else [name for name in self.columns if name in columns]
        number = 0
        with self._file:
            for batch in self._file.iter_batches(batch_size=_ROWS, columns=chosen):
                for row in _rows(batch):
                    number += 1
                    yield _row_record(row, number)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    names = batch.schema.names
    if not names:
        return [{} for _ in range(batch.num_rows)]
    columns = [json_values(name, column) for name, column in zip(names, batch.columns, strict=True)]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _row_record(row: dict[str, Any], number: int) -> Item:
    refused = next((value for value in row.values() if isinstance(value, QuarantineError)), None)
    try:
        data = orjson.dumps(row if refused is None else {})
    except (TypeError, ValueError, RecursionError):
        refused, data = _too_deep(row), b""
    # A Parquet row has no place in bytes of its own.
    return row if refused is None else refused, RawLine(number, 0, len(data), data, False)  # noqa: FBT003


def _too_deep(row: dict[str, Any]) -> QuarantineError:
    """Name the column that cannot be written as JSON: all types can, but not any depth."""
    for name, value in row.items():
        try:
            orjson.dumps(value)
        except (TypeError, ValueError, RecursionError):
            return QuarantineError(QuarantineCode.INVALID_JSON, name, "the column is nested too deeply")
    return QuarantineError(QuarantineCode.INVALID_JSON, None, "the row is nested too deeply")
