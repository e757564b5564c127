"""An object of S3 read in order, by several ranged GETs at a time; each one is retried on its own."""

from __future__ import annotations

import hashlib
import io
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from tasks.store.contract import StoreUnavailableError

if TYPE_CHECKING:
    from concurrent.futures import Future

RANGE_BYTES: Final = 8 << 20
FETCHES: Final = 4
"""Ranges on their way or waiting to be read: at most `FETCHES * RANGE_BYTES` are held."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Range:
    """A piece of an object.

    Attributes
    ----------
    data
        Its bytes.
    etag, size
        Of the whole object.
    is_md5
        Whether the ETag is the MD5 of the content: not where it came in parts or is encrypted.
    """

    data: bytes
    etag: str
    size: int
    is_md5: bool


class RangeSource(Protocol):
    """What ranges are fetched from."""

    def read_range(self, key: str, start: int, stop: int) -> Range:
        """Return bytes `start` to `stop` (exclusive), fewer at the end."""
        ...

    def object_uri(self, key: str) -> str:
        """Return the object's URI."""
        ...


class RangedReader(io.RawIOBase):
    """The object as a file to be read in order.

    Raises `StoreUnavailableError` where it is another object than in the beginning, or does not match its
    checksum.
    """

    def __init__(self, source: RangeSource, key: str) -> None:
        super().__init__()
        self._source, self._key = source, key
        first = source.read_range(key, 0, RANGE_BYTES)
        self._etag, self._size = first.etag, first.size
        self._md5 = hashlib.md5(usedforsecurity=False) if first.is_md5 else None
        self._asked = len(first.data)
        self._coming: deque[Future[Range]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if self._asked < self._size:
            self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="ranges")
        self._piece = memoryview(b"")
        self._take(first)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read up to the buffer's length; 0 at the end."""
        if not self._piece and self._coming:
            self._take(self._coming.popleft().result())
        count = min(len(self._piece), len(buffer))
        memoryview(buffer)[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def close(self) -> None:
        """Stop fetching."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        super().close()

    def _take(self, found: Range) -> None:
        uri = self._source.object_uri(self._key)
        if (found.etag, found.size) != (self._etag, self._size):
            raise StoreUnavailableError(f"{uri} changed while it was read")
        while self._pool is not None and len(self._coming) < FETCHES and self._asked < self._size:
            start, self._asked = self._asked, min(self._asked + RANGE_BYTES, self._size)
            self._coming.append(self._pool.submit(self._source.read_range, self._key, start, self._asked))
        self._piece = memoryview(found.data)
        if self._md5 is not None:
            self._md5.update(found.data)
            if not self._coming and self._asked == self._size and self._md5.hexdigest() != self._etag:
                raise StoreUnavailableError(f"{uri} does not match its checksum")


def is_md5(etag: str, answer: dict[str, Any]) -> bool:
    """Tell whether an ETag is the MD5 of the object's content."""
    plain = not answer.get("ServerSideEncryption") and not answer.get("SSECustomerAlgorithm")
    return plain and _MD5.fullmatch(etag) is not None
