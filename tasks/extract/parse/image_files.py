"""Where images of requests are read from while logs are parsed, and where their bytes lie until then.

What a log names is anybody's text. So an address is read only if it lies below one of the places that the run
names (the folder of the logs, and what `--image-source` adds), after everything that could lead out of it is
settled: steps of a path, links of a file system, redirects, user names in an address.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.base.errors import ConfigurationError, ErrorCode, RequestError
from tasks.base.schema import SCHEMAS
from tasks.requests.images import MOST_BYTES, refuse_address, too_large
from tasks.store.contract import ObjectNotFoundError, StoreUnavailableError
from tasks.store.open import is_s3, split_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import httpx

TIMEOUT_S: Final = 20.0
IMAGES: Final = "images"
"""The table of images: their bytes by digest."""
_TABLE_BYTES: Final = 16 << 20
_WEB: Final = ("http://", "https://")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_STEPS: Final = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Where images are read from and kept.

    Attributes
    ----------
    folder
        Local folder that gets the bytes of each image, by its digest.
    places
        Folders, `s3://BUCKET/PREFIX/` and `https://HOST/PATH/` below which they may be read.
    """

    folder: Path
    places: tuple[str, ...] = ()

    def keep(self, sha256: str, data: bytes) -> None:
        """Keep the bytes of an image; another process may do so at the same time."""
        path = self.folder / sha256
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{sha256}-{os.getpid()}")
            part.write_bytes(data)
            part.replace(path)


class ImageFiles:
    """Reads the bytes at addresses that requests of one object of a log name.

    Parameters
    ----------
    settings : ImageSettings
        Where they may lie.
    source_uri : str
        The object; an address without a scheme is relative to its folder.
    """

    def __init__(self, settings: ImageSettings, source_uri: str) -> None:
        self._places = settings.places
        self._folder = source_uri.rpartition("/")[0] + "/"
        self._client: httpx.Client | None = None

    def __call__(self, address: str, where: str) -> bytes:
        """Return what is there; see `tasks.requests.images.Fetch`."""
        if _is_web(address):
            return self._from_web(address, where)
        if _SCHEME.match(address) is None and not address.startswith("/"):
            address = self._folder + address
        if is_s3(address):
            return self._from_s3(address, where)
        if not address.lower().startswith("file://") and not address.startswith("/"):
            refuse_address(where)
        return self._from_folder(address, where)

    def _from_folder(self, address: str, where: str) -> bytes:
        path = _local(address)
        roots = [_local(place) for place in self._places if not is_s3(place) and not _is_web(place)]
        try:
            # Links are followed first: what counts is where the bytes are.
            found = path.resolve() if path is not None and "\0" not in str(path) else None
            inside = found is not None and any(
                root is not None and found.is_relative_to(root.resolve()) for root in roots
            )
            if found is None or not inside:
                refuse_address(where)
            if not found.is_file():
                raise _unavailable(where, "there is no such file")
            if found.stat().st_size > MOST_BYTES:
                too_large(where)
            return found.read_bytes()
        except OSError as error:
            raise _unavailable(where, error.strerror or type(error).__name__) from None

    def _from_s3(self, address: str, where: str) -> bytes:
        key = _plain_s3(address)
        if not any(is_s3(place) and key.startswith(_plain_s3(place)) for place in self._places):
            refuse_address(where)
        try:
            store, name = split_source(key, field="--source")
            with store.open_stream(name) as stream:
                data = b"".join(_bounded(iter(lambda: stream.read(1 << 20), b""), where))
        except ObjectNotFoundError:
            raise _unavailable(where, "there is no such object") from None
        except ConfigurationError:
            # A key that is none, or an object that may not be read.
            raise _unavailable(where, "the store refuses it") from None
        except StoreUnavailableError:
            raise _unavailable(where, "the store cannot be reached") from None
        return data

    def _from_web(self, address: str, where: str) -> bytes:
        # Slow to import, and most logs have no such address.
        import httpx

        asked = _web(address)
        if asked is None or not any(_is_web(place) and _below(asked, _web(place)) for place in self._places):
            refuse_address(where)
        if self._client is None:
            # No redirects, and no settings of the environment such as keys in a netrc file.
            self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
        try:
            with self._client.stream("GET", address) as response:
                if response.status_code != 200:
                    raise _unavailable(where, f"its server answers {response.status_code}")
                return b"".join(_bounded(response.iter_bytes(), where))
        except httpx.HTTPError as error:
            raise _unavailable(where, type(error).__name__) from None


def write_images(folder: Path, digests: Iterable[str], path: Path) -> None:
    """Write the images of `folder` with these digests as a table `images`."""
    schema = SCHEMAS[IMAGES]
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        held: list[tuple[str, bytes]] = []
        for sha256 in sorted(digests):
            held.append((sha256, (folder / sha256).read_bytes()))
            if sum(len(data) for _, data in held) >= _TABLE_BYTES:
                writer.write_table(_table(held, schema))
                held = []
        if held:
            writer.write_table(_table(held, schema))


def _table(rows: list[tuple[str, bytes]], schema: pa.Schema) -> pa.Table:
    return pa.table({"sha256": [name for name, _ in rows], "data": [data for _, data in rows]}, schema)


def _bounded(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MOST_BYTES:
            too_large(where)
        yield piece


def _is_web(place: str) -> bool:
    return place.lower().startswith(_WEB)


def _web(address: str) -> tuple[str, str, int | None, str] | None:
    """Return scheme, host, port and path of an address; None if anything in it could mean another place."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    steps = unquote(parts.path).replace("\\", "/").split("/")
    if parts.username is not None or parts.hostname is None or {".", ".."} & set(steps):
        return None
    if any(ord(letter) <= ord(" ") for letter in address) or "\\" in parts.netloc:
        return None
    return parts.scheme.lower(), parts.hostname.lower(), port, parts.path or "/"


def _below(asked: tuple[str, str, int | None, str], place: tuple[str, str, int | None, str] | None) -> bool:
    if place is None or asked[:3] != place[:3]:
        return False
    return asked[3].startswith(place[3] if place[3].endswith("/") else f"{place[3]}/")


def _plain_s3(uri: str) -> str:
    """Return an URI of S3 in one spelling."""
    scheme, _, rest = uri.partition("://")
    return f"s3://{rest}" if scheme.lower() in {"s3", "s3a"} else uri


def _local(uri: str) -> Path | None:
    if uri.lower().startswith("file://"):
        parts = urlsplit(uri)
        return Path(unquote(parts.path)) if parts.netloc in {"", "localhost"} else None
    return Path(uri)


def _unavailable(where: str, why: str) -> RequestError:
    message = f"the image cannot be read: {why}"
    return RequestError(ErrorCode.IMAGE_UNAVAILABLE, where, message, retryable=True)


def folder_of(place: str) -> str:
    """Return a place of images so that what lies below it begins with it.

    Raises
    ------
    ConfigurationError
        Naming `--image-source`, if it is no place.
    """
    named = place if place.endswith("/") else f"{place}/"
    if _is_web(place):
        if _web(place) is None or urlsplit(place).query or urlsplit(place).fragment:
            raise _no_place(place)
        return named
    if is_s3(place):
        bucket, *steps = _plain_s3(named).removeprefix("s3://").removesuffix("/").split("/")
        if not bucket or _STEPS & set(steps):
            raise _no_place(place)
        return _plain_s3(named)
    if not place or (_SCHEME.match(place) is not None and not place.lower().startswith("file:///")):
        raise _no_place(place)
    return named


def _no_place(place: str) -> ConfigurationError:
    return ConfigurationError(
        "--image-source",
        f"{place!r} is no place that images are read from",
        "Name a folder, s3://BUCKET/PREFIX/ or https://HOST/PATH/",
    )
