"""Opens a store by its URI, and tells what a source names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tasks.base.errors import ConfigurationError
from tasks.store.contract import PROBE_KEY, ObjectInfo, Store, check_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_store(uri: str, field: str = "--store") -> Store:
    """Open `s3://bucket/prefix`, `file:///dir` or a plain path.

    Nothing is contacted or created yet; call `Store.probe` before relying on it.

    Parameters
    ----------
    uri
        S3 takes endpoint, region and credentials from the standard AWS chain (`AWS_ENDPOINT_URL_S3`,
        `AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...).
    field
        The option that the URI came from, named in every error.

    Raises
    ------
    ConfigurationError
        If the URI is of no known kind.
    """
    if is_s3(uri):
        from tasks.store.s3 import S3Store

        bucket, prefix = _split_s3(uri, field)
        return S3Store(bucket, prefix.rstrip("/"), field=field)
    from tasks.store.folder import FolderStore

    path = local_path(uri, field)
    if path.exists() and not path.is_dir():
        raise ConfigurationError(field, f"{path} is not a folder", "name a folder or s3://bucket/prefix")
    return FolderStore(path, field=field)


def split_source(uri: str, field: str = "--source") -> tuple[Store, str]:
    """Split the URI of a source into a store and a prefix for `list_source`.

    Parameters
    ----------
    uri
        One object (`s3://b/day.jsonl`, `day.jsonl`) or all below a prefix (`s3://b/logs/`, `logs/`).

    Raises
    ------
    ConfigurationError
        If the URI is of no known kind or names a path that does not exist.
    """
    if is_s3(uri):
        from tasks.store.s3 import S3Store

        bucket, prefix = _split_s3(uri, field)
        return S3Store(bucket, "", field=field), prefix
    from tasks.store.folder import FolderStore

    path = local_path(uri, field)
    if path.is_dir():
        return FolderStore(path, field=field), ""
    if not path.exists():
        raise ConfigurationError(
            field, f"{path} does not exist", "Name a file, a folder or s3://bucket/prefix"
        )
    return FolderStore(path.parent, field=field), path.name


def list_source(store: Store, prefix: str) -> Iterator[ObjectInfo]:
    """Yield the objects of a source: the one that is named exactly so, else all below it as a folder.

    `a/b` never means `a/bc`, unlike `Store.list`.
    """
    if prefix and not prefix.endswith("/"):
        exact = next((info for info in store.list(prefix) if info.key == prefix), None)
        if exact is not None:
            yield exact
            return
        prefix += "/"
    yield from (info for info in store.list(prefix) if info.key != PROBE_KEY)


def is_s3(uri: str) -> bool:
    """Tell whether a URI names a place on S3."""
    return uri.lower().startswith(("s3:", "s3a:"))


def _split_s3(uri: str, field: str) -> tuple[str, str]:
    rest = uri.partition(":")[2]
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not bucket:
        raise ConfigurationError(field, f"{uri!r} names no bucket", "write s3://bucket/prefix")
    try:
        check_prefix(prefix)
    except ValueError:
        raise ConfigurationError(
            field, f"{uri!r} has an empty, '.' or '..' step in its path", "write s3://bucket/prefix"
        ) from None
    return bucket, prefix


def local_path(uri: str, field: str) -> Path:
    """Return the folder that `file:///dir` or a plain path names.

    Raises
    ------
    ConfigurationError
        Naming `field`, if it is neither.
    """
    scheme, separator, _ = uri.partition("://")
    if not uri:
        raise ConfigurationError(field, "is empty", "name a folder or s3://bucket/prefix")
    if not separator:
        return Path(uri).expanduser()
    parts = urlsplit(uri)
    if scheme.lower() != "file" or parts.netloc not in {"", "localhost"} or not parts.path:
        raise ConfigurationError(
            field,
            f"{uri!r} is not a kind of store known here",
            "write s3://bucket/prefix, file:///folder or a path",
        )
    return Path(unquote(parts.path))
