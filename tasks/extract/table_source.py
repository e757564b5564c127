"""Requests out of tables: the rows of an Iceberg table or of a query, as one object like any other.

    iceberg://NAMESPACE.TABLE?catalog=URI&filter=ROW FILTER
    postgresql://[USER@]HOST[:PORT]/DATABASE?query=SELECT ...
    duckdb:///FILE?query=SELECT ...

What follows `filter=` or `query=` is taken as it is, to the end; `{run_date}` may stand in it. Rows are
streamed into a local Parquet file, so a night of any size fits.
"""

from __future__ import annotations

import shutil
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urlsplit

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.errors import ConfigurationError, QuarantineError, bounded
from tasks.base.identity import digest, file_digest
from tasks.extract.text.arrow_values import json_values
from tasks.runlog.parts import GroupedWriter
from tasks.store.contract import ObjectInfo, ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMES: Final = ("iceberg", "postgresql", "duckdb")
_KEY: Final = "rows.parquet"
_QUERY: Final = "query="
_FILTER: Final = "filter="
_BATCH_ROWS: Final = 4096
_NAME_LENGTH: Final = 12
_OF_QUERIES: Final = frozenset(
    {
        *("BinderException", "CatalogException", "ParserException", "IOException", "PermissionException"),
        # The PostgreSQL driver's, of a connection: without a SQLSTATE.
        "OperationalError",
    }
)
_OF_STATES: Final = frozenset({"08", "28", "3D", "3F", "42", "53", "57"})
"""Classes of SQLSTATE: connection, authorization, names, syntax, resources, intervention."""


def is_table(source: str) -> bool:
    """Tell whether a source is a table or a query."""
    return source.partition("://")[0].lower() in SCHEMES


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of a table, read once: a source with one object, for `tasks.extract.extract`.

    Attributes
    ----------
    uri
        Where they come from, without user, filter and query text: the same each night.
    path
        Local Parquet file.
    etag
        Snapshot and filter of an Iceberg table; digest of the query and the rows it gave.
    columns
        Names of the columns.
    """

    uri: str
    path: Path
    etag: str
    columns: tuple[str, ...]

    def info(self) -> ObjectInfo:
        """Return what a listing says of them."""
        return ObjectInfo(_KEY, self.path.stat().st_size, self.etag, datetime.now(UTC))

    def object_uri(self, key: str) -> str:
        """Return `uri`: there is one object."""
        del key
        return self.uri

    def get(self, key: str) -> bytes:
        """Return the whole file."""
        self._check(key)
        return self.path.read_bytes()

    def open_stream(self, key: str) -> BinaryIO:
        """Open the file."""
        self._check(key)
        return self.path.open("rb")

    def _check(self, key: str) -> None:
        if key != _KEY:
            raise ObjectNotFoundError(f"{self.uri}/{key}")


def read_table_source(source: str, scratch: Path, catalog: str | None = None) -> TableRows:
    """Read the rows of a source.

    Parameters
    ----------
    source
        An URI as above, its date filled in.
    scratch
        Local folder for the rows.
    catalog
        Of an Iceberg table whose URI names none.

    Raises
    ------
    ConfigurationError
        If it is not understood, holds a password, cannot be reached, or has two columns of one name.
    """
    scheme = source.partition("://")[0].lower()
    head, _, rest = source.partition("?")
    options, found, query = rest.partition(_QUERY)
    if urlsplit(head).password or (scheme == "postgresql" and "password=" in options.lower()):
        raise _wrong(
            "holds a password, which would be seen in process lists and in Prefect",
            "Put it into PGPASSWORD or ~/.pgpass",
        )
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True)
    path = scratch / _KEY
    if scheme == "iceberg":
        return _read_iceberg(head, rest, path, catalog)
    if not found or not query.strip() or (options and not options.endswith("&")):
        raise _wrong(f"{head} has no query", f"Write it as {scheme}://...?query=SELECT ...")
    place = head + (f"?{options.removesuffix('&')}" if options else "")
    with _open_sql(scheme, place, query) as rows:
        columns = _write(rows, path, failures=(OSError, pa.ArrowException))
    parts = urlsplit(head)
    where = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    named = digest("query", query)[:_NAME_LENGTH]
    return TableRows(f"{where}#{named}", path, digest("rows", [query, file_digest(path)])[:32], columns)


def _read_iceberg(head: str, rest: str, path: Path, catalog: str | None) -> TableRows:
    from pyiceberg.exceptions import NoSuchTableError
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.expressions.parser import parse
    from pyparsing import ParseBaseException

    from tasks.warehouse.catalogs import open_catalog, store_properties

    name = head.partition("://")[2]
    settings, found, row_filter = rest.partition(_FILTER)
    options = dict(pair.partition("=")[::2] for pair in settings.split("&") if pair)
    uri = options.pop("catalog", catalog)
    if options or (found and not row_filter.strip()) or "." not in name:
        raise _wrong(
            f"{bounded(head)} is not understood",
            "Write it as iceberg://NAMESPACE.TABLE?catalog=URI&filter=day = '{run_date}'",
        )
    if uri is None:
        raise _wrong(f"{head} names no catalog", "Add ?catalog=URI, as for --catalog")
    try:
        wanted = parse(row_filter) if found else AlwaysTrue()
    except (ParseBaseException, ValueError) as error:
        raise _wrong(
            f"the filter {bounded(row_filter)!r} is not understood ({type(error).__name__})",
            "Write it like day = '2026-11-22' and lang in ('de', 'en')",
        ) from None
    # The tables of a SQLite catalog lie in a folder.
    settings_of_s3 = {} if uri.startswith("sqlite") else store_properties("s3://source")
    opened = open_catalog(uri, "", settings_of_s3)
    try:
        table = opened.load_table(name)
    except NoSuchTableError:
        raise _wrong(f"there is no table {name} in its catalog", "Correct the name or the catalog") from None
    snapshot = table.current_snapshot()
    try:
        scan = table.scan(row_filter=wanted)
        columns = _write(scan.to_arrow_batch_reader(), path)
    except pa.ArrowException:
        # A `ValueError` too, but about rows.
        raise
    except ValueError as error:
        # Such as a column that the table does not have.
        raise _wrong(f"{name} cannot be filtered so: {bounded(str(error))}", "Correct the filter") from None
    number = snapshot.snapshot_id if snapshot is not None else 0
    etag = f"{number}-{digest('filter', row_filter)[:_NAME_LENGTH]}"
    return TableRows(f"iceberg://{name}", path, etag, columns)


@contextmanager
def _open_sql(scheme: str, place: str, query: str) -> Iterator[pa.RecordBatchReader]:
    """Run a query and stream its rows."""
    try:
        if scheme == "postgresql":
            import adbc_driver_manager
            from adbc_driver_postgresql import dbapi

            errors: tuple[type[Exception], ...] = (adbc_driver_manager.Error,)
        else:
            import duckdb

            errors = (duckdb.Error,)
    except ModuleNotFoundError:
        raise _wrong(
            f"the driver for {scheme} is not installed", "Install it: pip install 'nightblend[sql]'"
        ) from None
    try:
        if scheme == "postgresql":
            with closing(dbapi.connect(place)) as connection, closing(connection.cursor()) as cursor:
                cursor.execute(query)
                yield cursor.fetch_record_batch()
        else:
            file = Path(urlsplit(place).path)
            if not file.is_file():
                raise _wrong(f"there is no file {file}", "Name a DuckDB file: duckdb:///FILE?query=...")
            with duckdb.connect(str(file), read_only=True) as reading:
                yield reading.sql(query).to_arrow_reader(_BATCH_ROWS)
    except errors as error:
        raise _failed(error) from None


def _failed(error: Exception) -> ConfigurationError:
    return _wrong(f"the query failed: {_told(error)}", "Correct the query or the address")


def _told(error: Exception) -> str:
    """Return the first line of an error of a query or a connection; of others, which quote rows, the kind."""
    state = getattr(error, "sqlstate", None)
    kind = type(error).__name__
    if state[:2] in _OF_STATES if state else kind in _OF_QUERIES:
        return bounded(str(error).partition("\n")[0])
    return f"{kind}{f', SQLSTATE {state}' if state else ''}; its text is left out, as it may quote rows"


def _fetched(rows: pa.RecordBatchReader, failures: tuple[type[Exception], ...]) -> Iterator[pa.RecordBatch]:
    try:
        yield from rows
    except failures as error:
        raise _failed(error) from None


def _write(
    rows: pa.RecordBatchReader, path: Path, failures: tuple[type[Exception], ...] = ()
) -> tuple[str, ...]:
    """Write rows; `failures` are the errors that a query ends with while its rows are fetched."""
    names = tuple(rows.schema.names)
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise _wrong(f"two columns are called {double[0]!r}", "Give each its own name: SELECT ... AS ...")
    schema = pa.schema([_stored(field) for field in rows.schema])
    with GroupedWriter(path, schema) as writer:
        for batch in _fetched(rows, failures):
            columns = [_column(field, column) for field, column in zip(schema, batch.columns, strict=True)]
            writer.write(pa.Table.from_arrays(columns, schema=schema))
    return names


def _stored(field: pa.Field) -> pa.Field:
    """Return how a column lies in the file: as text, where Parquet does not have its type."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    elif isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        # Such as PostgreSQL's own.
        kind = kind.storage_type
    return pa.field(field.name, kind if _has_parquet(kind) else pa.string(), nullable=field.nullable)


def _has_parquet(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return False
    try:
        pq.write_table(pa.table({"column": pa.array([], kind)}), pa.BufferOutputStream())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def _column(field: pa.Field, column: pa.Array) -> pa.Array:
    """Return a column as it lies in the file."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    storage = getattr(column, "storage", column)
    if storage.type == field.type:
        return storage
    values = json_values(field.name, column)
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    """Return a value as text: its JSON, unless it is text."""
    if value is None or isinstance(value, str):
        return value
    return None if isinstance(value, QuarantineError) else orjson.dumps(value).decode()


def _wrong(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("--source", what, remedy)
