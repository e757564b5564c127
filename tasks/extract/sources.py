"""Where requests come from: objects of a store, or the rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.base.run_date import expand_source
from tasks.extract.listing import list_objects
from tasks.extract.readers.registry import find_reader, find_table_reader
from tasks.extract.table_source import TableRows, is_table, read_table_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path
    from typing import TypeAlias

    from tasks.extract.readers.contract import Reader
    from tasks.store.contract import ObjectInfo, Store

    Source: TypeAlias = Store | TableRows


def open_source(
    source: str, run_date: date, store: Store | None, job: str, scratch: Path, catalog: str | None
) -> tuple[Source, list[ObjectInfo], list[str]]:
    """Return a source, its objects of a date, and the keys that are left out.

    Parameters
    ----------
    source, run_date, store, job
        As for `list_objects`; or a table, see `tasks.extract.table_source`.
    scratch, catalog
        As for `read_table_source`.

    Raises
    ------
    ConfigurationError
        If there is nothing, or it cannot be read.
    """
    if not is_table(source):
        return list_objects(source, run_date, store, job)
    rows = read_table_source(expand_source(source, run_date), scratch, catalog)
    return rows, [rows.info()], []


def reader_of(source: Source, name: str, columns: Mapping[str, str]) -> Reader | None:
    """Return the format that all objects of a source have; None to let the content of each decide.

    Raises
    ------
    ConfigurationError
        As `find_reader`.
    """
    if isinstance(source, TableRows):
        return find_table_reader(name, columns, source.columns)
    return find_reader(name, columns)
