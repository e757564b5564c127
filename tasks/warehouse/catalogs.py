"""Iceberg catalogs: which one belongs to a store, what may be asked for, and how it is opened."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tasks.base.errors import ConfigurationError
from tasks.store.contract import StoreUnavailableError
from tasks.store.open import is_s3, local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyiceberg.catalog import Catalog

NAME: Final = "nightblend"
NO_CATALOG: Final = "none"
FOLDER: Final = "_warehouse"
"""Folder of the tables in a store; no job can have this name."""
_SCHEMES: Final = {
    "sqlite": "sql",
    "postgresql": "sql",
    "postgresql+psycopg": "sql",
    "http": "rest",
    "https": "rest",
}
_PASSING: Final = {
    "sqlalchemy": frozenset({"OperationalError", "InterfaceError", "InternalError", "TimeoutError"}),
    "pyiceberg": frozenset({"ServerError", "ServiceUnavailableError", "CommitStateUnknownException"}),
}
"""Package -> its errors of a catalog that is away, full or locked: another time it may do as it was asked."""


@contextmanager
def catalog_errors(uri: str) -> Iterator[None]:
    """Tell a catalog that fails, or the store of its tables, from a fault of what was asked.

    Parameters
    ----------
    uri
        Of the catalog, for people.

    Raises
    ------
    StoreUnavailableError
        In the place of what drivers raise when they do not reach a catalog, or it has no room. Commits that
        were made stay; whoever goes on makes the others.
    """
    try:
        yield
    except Exception as error:
        # By name: a REST catalog needs no SQLAlchemy.
        kind = type(error)
        passing = kind.__name__ in _PASSING.get(kind.__module__.partition(".")[0], ())
        if not passing and not isinstance(error, OSError):
            raise
        raise StoreUnavailableError(
            f"the catalog {uri}, or the store of its tables, fails ({kind.__name__}): see that it runs, has "
            "room and lets this user in, and run the same command again; what is durable counts"
        ) from error


def open_catalog(uri: str, warehouse: str, properties: Mapping[str, str] | None = None) -> Catalog:
    """Open the catalog at `uri`, whose tables lie under `warehouse`.

    Parameters
    ----------
    uri
        `sqlite:///FILE`, `postgresql+psycopg://...`, or `http(s)://...` of a REST catalog.
    warehouse
        URI of the folder or bucket that holds the tables.
    properties
        Further properties of pyiceberg, such as the settings of the object store.

    Raises
    ------
    ConfigurationError
        If the kind of catalog is unknown, or is a SQLite file while the store is S3.
    """
    kind = check_catalog(uri, on_s3=is_s3(warehouse))
    # pyiceberg is slow to import.
    from pyiceberg.catalog import load_catalog

    if kind == "sql" and uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return load_catalog(NAME, type=kind, uri=uri, warehouse=warehouse, **(properties or {}))


def check_catalog(uri: str, *, on_s3: bool) -> str:
    """Return pyiceberg's name for the kind of a catalog.

    Raises
    ------
    ConfigurationError
        If the kind is unknown, the URI holds a password, or it is a SQLite file while the store is on S3.
    """
    parts = urlsplit(uri)
    if parts.password:
        raise ConfigurationError(
            "--catalog",
            "holds a password, which would be seen in process lists and in Prefect",
            "Put it into PGPASSWORD or ~/.pgpass (PostgreSQL), or into pyiceberg's own settings (REST)",
        )
    if parts.scheme == "sqlite" and on_s3:
        raise ConfigurationError(
            "--catalog",
            "a SQLite file cannot serve a store on S3, it would be lost with the machine",
            "Give a postgresql+psycopg:// or https:// (REST) catalog",
        )
    kind = _SCHEMES.get(parts.scheme)
    if kind is None:
        raise ConfigurationError(
            "--catalog",
            f"unknown kind {parts.scheme!r}",
            "Give sqlite:///FILE, postgresql+psycopg:// or https:// (REST), or none",
        )
    return kind


def choose_catalog(asked: str | None, store_uri: str) -> str | None:
    """Return the URI of the catalog of a store, None for no tables.

    Parameters
    ----------
    asked
        A URI; `none` for files only; None takes a SQLite file in a folder store.
    store_uri
        Folder, `file://` or `s3://` URI.

    Raises
    ------
    ConfigurationError
        If `asked` cannot be used, or a store on S3 comes without one.
    """
    on_s3 = is_s3(store_uri)
    if asked == NO_CATALOG:
        return None
    if asked is not None:
        check_catalog(asked, on_s3=on_s3)
        return asked
    if on_s3:
        raise ConfigurationError(
            "--catalog",
            "is missing, and a store on S3 has no default",
            "Give postgresql+psycopg://host/database or https:// (REST), or none for files only",
        )
    return f"sqlite:///{local_path(store_uri, '--store').absolute()}/{FOLDER}/catalog.db"


def store_properties(store_uri: str) -> dict[str, str]:
    """Return pyiceberg's settings of the object store, from the standard AWS chain."""
    if not is_s3(store_uri):
        return {}
    import boto3

    session = boto3.session.Session()
    client = session.client("s3")
    found = {"s3.endpoint": client.meta.endpoint_url, "s3.region": client.meta.region_name}
    credentials = session.get_credentials()
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        found |= {"s3.access-key-id": frozen.access_key, "s3.secret-access-key": frozen.secret_key}
        if frozen.token:
            found["s3.session-token"] = frozen.token
    return {name: value for name, value in found.items() if value}
