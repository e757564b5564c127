"""Raw lines of an object, one at a time, in bounded memory.

Lines are cut at line feeds only; nothing is decoded or parsed here. A gzip whose end is missing or damaged
gives all lines before the damage and one `ReadFailure`; the cut line in front of the damage belongs to it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES: Final = 1 << 20
KEPT_BYTES: Final = 8192
"""How much of a line over the limit is kept."""


class Readable(Protocol):
    """What lines are read from: the one method of a binary file that is needed."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class RawLine:
    """One line.

    Attributes
    ----------
    number
        From 1.
    offset, length
        In bytes of the uncompressed object, without the line end.
    data
        The bytes; only the first `KEPT_BYTES` if `too_long`.
    too_long
        Whether the line is over the limit.
    """

    number: int
    offset: int
    length: int
    data: bytes
    too_long: bool


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """A part of an object that cannot be read.

    Attributes
    ----------
    byte_offset
        Bytes of the object (as stored) that were read when it failed.
    text_offset
        Where in the uncompressed text the last whole line ends: all before it was read.
    message
        What is wrong, in one sentence.
    """

    byte_offset: int
    text_offset: int
    message: str


class LineReader:
    """Iterate once over the lines of a binary stream.

    Parameters
    ----------
    stream : Readable
        The stored bytes.
    compressed : bool
        Whether they are gzip (several members may follow each other).
    max_line_bytes : int
        Longer lines are skipped over, with their beginning kept.

    Attributes
    ----------
    failure : ReadFailure or None
        After the iteration: what could not be read.
    bytes_read : int
        Stored bytes read so far.
    """

    def __init__(self, stream: Readable, *, compressed: bool, max_line_bytes: int) -> None:
        self.failure: ReadFailure | None = None
        self.bytes_read = 0
        self._stream = stream
        self._compressed = compressed
        self._limit = max_line_bytes
        self._kept: list[bytes] = []
        self._length = 0
        self._number = 0
        self._offset = 0
        self._damage: str | None = None

    def __iter__(self) -> Iterator[RawLine]:
        for chunk in self._inflated() if self._compressed else self._stored():
            first, *rest = chunk.split(b"\n")
            self._keep(first)
            for piece in rest:
                yield self._cut(1)
                self._keep(piece)
        if self._damage is not None:
            self.failure = ReadFailure(self.bytes_read, self._offset, self._damage)
        elif self._length:
            yield self._cut(0)

    def _keep(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length <= self._limit:
            if piece:
                self._kept.append(piece)
        else:
            # The same beginning is kept however the stream was cut.
            self._kept = [b"".join([*self._kept, piece[:KEPT_BYTES]])[:KEPT_BYTES]]

    def _cut(self, end_bytes: int) -> RawLine:
        self._number += 1
        data = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        line = RawLine(self._number, self._offset, self._length, data, self._length > self._limit)
        self._offset += self._length + end_bytes
        self._kept, self._length = [], 0
        return line

    def _stored(self) -> Iterator[bytes]:
        while chunk := self._stream.read(CHUNK_BYTES):
            self.bytes_read += len(chunk)
            yield chunk

    def _inflated(self) -> Iterator[bytes]:
        # zlib rather than gzip: gzip gives up the text it has already read when the end is missing.
        member = zlib.decompressobj(wbits=31)
        started = False
        for stored in self._stored():
            data = stored if started else stored.lstrip(b"\0")
            text = b""
            # A full piece of text may have more behind it although all data went in.
            while data or len(text) == CHUNK_BYTES:
                started = True
                try:
                    text = member.decompress(data, CHUNK_BYTES)
                except zlib.error as error:
                    self._damage = f"the gzip data is damaged ({error})"
                    return
                if text:
                    yield text
                data = member.unconsumed_tail
                if member.eof:
                    # Zeros after a member are padding, anything else is the next member.
                    data = member.unused_data.lstrip(b"\0")
                    member, started, text = zlib.decompressobj(wbits=31), False, b""
        if started:
            if text := member.flush():
                yield text
            self._damage = "the gzip data is truncated"
