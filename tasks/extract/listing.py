"""Which objects a date has."""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import TYPE_CHECKING, Final

from tasks.base.errors import ConfigurationError
from tasks.base.run_date import expand_source, is_dated, static_prefix
from tasks.store.open import list_source, split_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from tasks.store.contract import ObjectInfo, Store

_PLAIN: Final = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_PACKED: Final = ("", ".gz", ".zst")
SUFFIXES: Final = tuple(f"{plain}{packed}" for plain in _PLAIN for packed in _PACKED)
"""Objects with other names are not read, unless one is named as the source itself."""
_SHOWN: Final = 3
_PAGE: Final = 1000


def list_objects(
    source: str, run_date: date, store: Store | None, job: str
) -> tuple[Store, list[ObjectInfo], list[str]]:
    """List the objects of a date, as `find_objects` does.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    source_store, found, ignored = find_objects(source, run_date, store, job)
    if source_store is None or not found:
        raise _nothing_found(source, expand_source(source, run_date), run_date, ignored)
    return source_store, found, ignored


def find_objects(
    source: str, run_date: date, store: Store | None, job: str
) -> tuple[Store | None, list[ObjectInfo], list[str]]:
    """Look for the objects of a date.

    Parameters
    ----------
    source : str
        An object, a folder or a prefix, with or without `{run_date}`.
    run_date : date
        The date.
    store, job
        Where this job writes: what it wrote is not its input.

    Returns
    -------
    (Store or None, list of ObjectInfo, list of str)
        The source, its objects sorted by key, and the keys that are left out for their names. None where a
        dated folder does not exist, which is a date without objects.

    Raises
    ------
    ConfigurationError
        If the source cannot be read.
    """
    expanded = expand_source(source, run_date)
    try:
        source_store, prefix = split_source(expanded, field="--source")
    except ConfigurationError:
        if is_dated(source):
            return None, [], []
        raise
    own = f"{store.object_uri(job)}/" if store is not None else None
    found: list[ObjectInfo] = []
    ignored: list[str] = []
    for info in list_source(source_store, prefix):
        if own is not None and source_store.object_uri(info.key).startswith(own):
            # The store lies inside the source: what this job wrote is not its input.
            continue
        if info.key.lower().endswith(SUFFIXES) or info.key == prefix:
            found.append(info)
        elif not info.key.endswith("/"):
            ignored.append(info.key)
    return source_store, sorted(found, key=lambda info: info.key), ignored


def listing_digest(objects: Iterable[tuple[str, str, int]]) -> str:
    """Return the SHA-256 over the sorted (uri, etag, size) of a date's objects, in hex.

    It tells whether a date has other objects than those its run was made from, without reading any.
    """
    digest = hashlib.sha256()
    for uri, etag, size in sorted(objects):
        digest.update(f"{uri}\0{etag}\0{size}\n".encode())
    return digest.hexdigest()


def _nothing_found(source: str, expanded: str, run_date: date, ignored: Sequence[str]) -> ConfigurationError:
    message = (
        f"no {', '.join(_PLAIN)} objects (.gz, .zst) under {expanded} for --run-date {run_date.isoformat()}"
    )
    if ignored:
        message += f" ({len(ignored)} others, such as {', '.join(ignored[:_SHOWN])})"
    if is_dated(source):
        message += _neighbours(static_prefix(source))
        return ConfigurationError(
            "--source", message, "Give a --run-date that has objects, or correct --source"
        )
    return ConfigurationError(
        "--source", message, "Name the object, folder or prefix that holds the requests"
    )


def _neighbours(prefix: str) -> str:
    """Say what there is of other dates, looking at a bounded number of objects."""
    folder = prefix.rpartition("/")[0] + "/" if "/" in prefix else "."
    source_store, start = split_source(folder, field="--source")
    page = islice(source_store.list(start), _PAGE)
    keys = [info.key for info in page if info.key.lower().endswith(SUFFIXES)]
    return f"; {folder} holds {', '.join(keys[:_SHOWN]) or 'none'}{', ...' if len(keys) > _SHOWN else ''}"
