"""Where bytes live: one small interface over a folder and over S3.

The only primitive that anything relies on for correctness is `Store.put_if_absent`; everything else may
be repeated, overwritten with the same content, or lost and done again. Keys are relative to the store's
URI, '/'-separated, and never leave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

# One fixed key: a store that refuses to create it a second time has shown what the run log needs, and
# probing every night leaves nothing behind.
PROBE_KEY = ".nightblend-probe"


class ObjectNotFoundError(Exception):
    """No object has this key."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"no such object: {uri}")
        self.uri = uri


class StoreUnavailableError(Exception):
    """The store failed for longer than it was retried. The operation may or may not have been applied."""


def refuses_now(uri: str, error: ConfigurationError) -> StoreUnavailableError:
    """Return the error for a store that refuses what it has allowed this process before."""
    return StoreUnavailableError(
        f"{uri} was written to before and refuses now: {error.message}. To go on, {error.remedy}, and run "
        "the same command again: what is durable counts"
    )


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells of an object without reading it.

    Attributes
    ----------
    key
        Relative to the store's URI.
    size
        Bytes.
    etag
        Changes when the content changes; nothing else may be read into it.
    last_modified
        UTC, by the store's clock.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime


class Store(Protocol):
    """A flat set of objects under one URI.

    Every method raises `ConfigurationError` where only a change of settings can help (missing bucket,
    wrong endpoint, no access) and `StoreUnavailableError` where trying again later may: also where a store
    turns read-only, or takes access away, after this process has written to it.
    """

    uri: str

    def get(self, key: str) -> bytes:
        """Return the whole object; raise `ObjectNotFoundError` if there is none."""

    def get_with_info(self, key: str) -> tuple[bytes, ObjectInfo]:
        """Return the object and what the store says of it, from one read."""

    def open_stream(self, key: str) -> BinaryIO:
        """Open a large object for reading in order; use it as a context manager."""

    def put(self, key: str, data: bytes) -> None:
        """Write the object, replacing what is there; readers see the old or the new bytes, never a mix."""

    def put_file(self, key: str, path: Path) -> None:
        """`put` of a local file of any size."""

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to a local file, which appears only when complete."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object unless there is one.

        Returns
        -------
        bool
            True: created by this call. False: refused, because an object is there. A PUT that was
            applied and repeated after a lost answer is refused too, so False does not tell whose bytes
            they are: read them. The same holds after `StoreUnavailableError`.
        """

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with `prefix`, sorted by key."""

    def exists(self, key: str) -> bool:
        """Tell whether there is an object."""

    def age_seconds(self, key: str) -> float | None:
        """Return the seconds since the last write by the store's own clock; None without an object.

        On S3 both ends have whole seconds, so the true age may be up to a second more or less.
        """

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""

    def object_uri(self, key: str) -> str:
        """Return the absolute URI of a key, the same one however the store was opened."""

    def probe(self) -> None:
        """Raise `ConfigurationError` unless a second conditional PUT of one key is refused."""


def plain_path(uri: str) -> str:
    """Return the URI of a file as a path, without percent signs; any other URI as it is."""
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def check_key(key: str) -> str:
    """Return `key` if it stays inside the store, else raise `ValueError`."""
    parts = key.split("/")
    if not key or "" in parts or "." in parts or ".." in parts or "\\" in key or "\0" in key:
        raise ValueError(f"not a relative '/'-separated key: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it is empty or the beginning of a valid key, else raise `ValueError`."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def probe_store(store: Store, field: str) -> None:
    """Carry out `Store.probe` through the public methods of `store`."""
    data = b"nightblend probes here that a second conditional PUT is refused\n"
    store.put_if_absent(PROBE_KEY, data)
    refused = not store.put_if_absent(PROBE_KEY, data)
    if not refused or not store.exists(PROBE_KEY):
        raise ConfigurationError(
            field,
            f"{store.uri} does not honour PUT with If-None-Match: two runs could overwrite each other",
            "use a store with conditional writes (AWS S3, Ceph, MinIO, R2 or a local folder)",
        )
