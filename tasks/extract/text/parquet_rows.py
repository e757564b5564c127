"""Rows of a Parquet file as records: what JSON has, times at the top apart."""

from __future__ import annotations

import base64
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.errors import QuarantineCode, QuarantineError
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
            path, thrift_string_size_limit=_THRIFT_LIMIT, thrift_container_size_limit=_THRIFT_LIMIT
        )
        self.columns: list[str] = self._file.schema_arrow.names

    def first(self) -> list[dict[str, Any]]:
        """Return the first row, none of an empty file."""
        batch = next(self._file.iter_batches(batch_size=1), None)
        return [_plain(row) for row in batch.to_pylist()] if batch is not None else []

    def records(self, columns: Sequence[str] | None) -> Iterator[Item]:
        """Yield the rows, of these columns or of all; then the file is closed."""
        chosen = None if columns is None else [name for name in self.columns if name in columns]
        number = 0
        with self._file:
            for batch in self._file.iter_batches(batch_size=_ROWS, columns=chosen):
                for row in batch.to_pylist():
                    number += 1
                    yield _row_record(row, number)


def _row_record(row: dict[str, Any], number: int) -> Item:
    record: dict[str, Any] | QuarantineError
    try:
        record = _plain(row)
        data = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        reason = QuarantineError(QuarantineCode.INVALID_JSON, None, "the row holds what JSON does not have")
        return reason, RawLine(number, 0, 0, b"", False)  # noqa: FBT003
    # A Parquet row has no place in bytes of its own.
    return record, RawLine(number, 0, len(data), data, False)  # noqa: FBT003


def _plain(value: Any) -> Any:  # noqa: ANN401 - any Parquet value
    """Return a Parquet value as JSON has it; times at the top stay, for readers know them."""
    return {name: item if isinstance(item, datetime) else _json_value(item) for name, item in value.items()}


def _json_value(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list):
        # Lists of (key, value) pairs are what pyarrow makes of maps.
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return {str(name): _json_value(item) for name, item in value}
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
