"""Iceberg tables of the warehouse: their schemas, replacing one date in one commit.

A date of a job is replaced by one transaction: delete by (job, run_date) and add the new Parquet files as
they are. Nothing passes through memory, and a reader sees the earlier rows or the new ones, never both.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import And, EqualTo

from tasks.base.schema import SCHEMAS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

NAMESPACE: Final = "nightblend"
TABLES: Final[dict[str, str]] = {
    "outputs": "llm_outputs",
    "errors": "llm_errors",
    "quarantine": "llm_quarantine",
    "profiles": "request_profiles",
    "utilization": "utilization_samples",
    "batch_runs": "batch_runs",
}
"""Iceberg table of each table of `tasks.base.schema`."""
OPTIONAL: Final[dict[str, str]] = {"comparisons": "llm_comparisons", "promises": "llm_promises"}
"""Tables that are made with their first rows: most nights have none."""
OF_A_DATE: Final = ("outputs", "errors", "quarantine", "profiles", "utilization")
"""Those that are replaced date by date; `batch_runs` has a row for each attempt."""

# Without this pyiceberg rebases a lost append on the winner's snapshot: two first publications of one date,
# which have nothing to delete, would both stay and double its rows.
PROPERTIES: Final = {
    "commit.retry.num-retries": "0",
    # A commit a night makes a manifest and a metadata file each; many are merged, and old ones go.
    "commit.manifest-merge.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "50",
}
VERSION: Final = "nightblend.schema-version"
"""Property of a table: the version of `tasks.base.schema` that its columns are of."""
# Its documented positional form (term, literal) is not in the types of pyiceberg 0.12.
_EQUAL: Final[Callable[[str, str], BooleanExpression]] = cast("Any", EqualTo)


def table_name(kind: str) -> str:
    """Return the Iceberg table of a table of `tasks.base.schema`, without its namespace."""
    return TABLES.get(kind) or OPTIONAL[kind]


def iceberg_schema(kind: str) -> pa.Schema:
    """Return the Arrow schema of a table as Iceberg holds it.

    Iceberg has no unsigned integers: uint64 becomes decimal(20, 0), which holds all of its values.
    """
    columns = list(SCHEMAS[kind])
    if kind == "profiles":
        # Within a run they need no job and date; within a table they do.
        columns = [SCHEMAS["outputs"].field(name) for name in ("job", "run_date")] + columns
    fields = [
        pa.field(
            field.name,
            _signed(field.type),
            nullable=field.nullable,
            metadata={"doc": _doc(field.metadata)},
        )
        for field in columns
    ]
    return pa.schema(fields)


def _doc(metadata: Mapping[bytes, bytes]) -> str:
    unit, meaning = metadata[b"unit"].decode(), metadata[b"meaning"].decode()
    return f"{meaning} [{unit}]" if unit else meaning


def _signed(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_signed(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_signed(field.type)) for field in kind])
    return kind


def ensure_table(catalog: Catalog, kind: str) -> Table:
    """Load the Iceberg table of `kind`, made if it does not exist, with all columns of this version.

    A table of an earlier version gets its new columns, which are null in its rows; nothing is rewritten. One
    of a later version stays as it is.
    """
    name = f"{NAMESPACE}.{table_name(kind)}"
    try:
        return _evolved(catalog, name, kind)
    except NoSuchTableError:
        pass
    with suppress(NamespaceAlreadyExistsError):
        catalog.create_namespace(NAMESPACE)
    try:
        with (
            catalog.create_table_transaction(
                name, schema=iceberg_schema(kind), properties={**PROPERTIES, VERSION: str(VERSIONS[kind])}
            ) as creation,
            creation.update_spec() as spec,
        ):
            spec.add_identity("job")
            spec.add_identity("run_date")
    except TableAlreadyExistsError:
        pass
    return catalog.load_table(name)


def _evolved(catalog: Catalog, name: str, kind: str) -> Table:
    table = catalog.load_table(name)
    if int(table.properties.get(VERSION, 0)) >= VERSIONS[kind]:
        return table
    # Who loses this race finds the columns there.
    with suppress(CommitFailedException), table.transaction() as change:
        with change.update_schema() as columns:
            columns.union_by_name(iceberg_schema(kind))
        change.set_properties({VERSION: str(VERSIONS[kind])})
    return catalog.load_table(name)


def _of_date(job: str, run_date: date) -> BooleanExpression:
    return And(_EQUAL("job", job), _EQUAL("run_date", run_date.isoformat()))


def current_files(table: Table, job: str, run_date: date) -> set[str]:
    """Return the URIs of the files that hold a date of a job, in the snapshot of this handle."""
    return {task.file.file_path for task in table.scan(row_filter=_of_date(job, run_date)).plan_files()}


def replace_date(
    table: Table, job: str, run_date: date, files: Sequence[str], *, publication_id: str
) -> int | None:
    """Let a date of a job consist of `files` alone, in one commit through the handle `table`.

    The files that a date consists of say what is published, not the snapshots: those expire.

    Parameters
    ----------
    files
        URIs of Parquet files in `iceberg_schema`, each with rows of this job and date only; none for an
        empty date.

    Returns
    -------
    int or None
        Id of the snapshot that holds the date; None if the table never had a row.

    Raises
    ------
    CommitFailedException, ValidationException
        If the table has changed since the handle was loaded. Check the ownership of the date, load the table
        and try again; never repeat it blindly.
    """
    present = current_files(table, job, run_date)
    if present != set(files):
        marks: dict[str, Any] = {
            "nightblend.publication": publication_id,
            "nightblend.job": job,
            "nightblend.run_date": run_date.isoformat(),
        }
        with table.transaction() as change:
            if present:
                change.delete(_of_date(job, run_date), snapshot_properties=marks)
            if files:
                # The deleted files may be among the new ones, so the check for duplicates would be wrong.
                change.add_files(list(files), snapshot_properties=marks, check_duplicate_files=False)
    snapshot = table.current_snapshot()
    return snapshot.snapshot_id if snapshot is not None else None


def replace_run(table: Table, row: Mapping[str, Any]) -> None:
    """Let the row of an attempt in `batch_runs` be `row`, in one commit.

    Raises
    ------
    CommitFailedException, ValidationException
        As `replace_date`.
    """
    mine = And(_of_date(row["job"], row["run_date"]), _EQUAL("attempt_id", row["attempt_id"]))
    rows = pa.Table.from_pylist([dict(row)], schema=iceberg_schema("batch_runs"))
    held = table.scan(row_filter=mine).to_arrow()
    if held.num_rows == 1 and held.to_pylist() == rows.to_pylist():
        return
    with table.transaction() as change:
        if held.num_rows:
            change.delete(mine)
        change.append(rows)


def add_runs(table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the rows of attempts to `batch_runs`, in one commit; those that have a row keep it.

    Raises
    ------
    CommitFailedException, ValidationException
        As `replace_date`.
    """
    if not rows:
        return
    of_date = _of_date(rows[0]["job"], rows[0]["run_date"])
    held = table.scan(row_filter=of_date, selected_fields=("attempt_id",)).to_arrow()
    known = set(held.column("attempt_id").to_pylist())
    new = [dict(row) for row in rows if row["attempt_id"] not in known]
    if new:
        table.append(pa.Table.from_pylist(new, schema=iceberg_schema("batch_runs")))
