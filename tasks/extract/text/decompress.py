"""The text of an object, whatever it is packed in: plain, gzip or zstd, told apart by its first bytes.

Text is made piece by piece, so a small object that unpacks to a huge one is never held; one that unpacks to
far more than logs do is given up (`MAX_EXPANSION`). Damage ends the text early and is described, not raised:
what came before it is good.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Protocol, cast

import zstandard

from tasks.extract.text.zstd_frames import FrameTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

Codec = Literal["plain", "gzip", "zstd"]

CHUNK_BYTES: Final = 1 << 20
MAX_EXPANSION: Final = 400
"""Text bytes per stored byte above which an object is taken for a decompression bomb. Logs reach 5 to 100."""
EXPANSION_GRACE: Final = 256 << 20
"""Text bytes that are always allowed."""
MAX_WINDOW_BYTES: Final = 128 << 20
"""Most memory that a zstd frame may ask for (`zstd --long=27`)."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class Readable(Protocol):
    """What text is read from: the one method of a binary file that is needed."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


class TextStream:
    """Iterate once over the text of a binary stream, in pieces of at most about `CHUNK_BYTES`.

    Parameters
    ----------
    stream : Readable
        The stored bytes.
    codec : Codec or None
        How they are packed; several gzip members or zstd frames may follow each other. None looks.

    Attributes
    ----------
    codec : Codec
        How they are packed.
    bytes_read : int
        Stored bytes read so far.
    damage : str or None
        After the iteration: why the text ends early, in one sentence.
    """

    def __init__(self, stream: Readable, codec: Codec | None = None) -> None:
        self.bytes_read = 0
        self.damage: str | None = None
        self._stream = stream
        self._first = self._read() if codec is None else b""
        self.codec: Codec = codec or detect_codec(self._first)
        self._peeked: list[bytes] = []
        self._pieces: Iterator[bytes] | None = None

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes of the text, or all if there are fewer; nothing is used up."""
        have = sum(map(len, self._peeked))
        while have < size:
            piece = next(self._made(), None)
            if piece is None:
                break
            self._peeked.append(piece)
            have += len(piece)
        return b"".join(self._peeked)[:size]

    def __iter__(self) -> Iterator[bytes]:
        while self._peeked:
            yield self._peeked.pop(0)
        yield from self._made()

    def _made(self) -> Iterator[bytes]:
        if self._pieces is None:
            self._pieces = self._stored() if self.codec == "plain" else self._unpacked()
        return self._pieces

    def _read(self) -> bytes:
        data = self._stream.read(CHUNK_BYTES)
        self.bytes_read += len(data)
        return data

    def _stored(self) -> Iterator[bytes]:
        chunk = self._first or self._read()
        self._first = b""
        while chunk:
            yield chunk
            chunk = self._read()

    def _unpacked(self) -> Iterator[bytes]:
        produced = 0
        pieces = self._inflated() if self.codec == "gzip" else self._zstd()
        for piece in pieces:
            produced += len(piece)
            if produced > EXPANSION_GRACE and produced > MAX_EXPANSION * self.bytes_read:
                self.damage = f"it unpacks to more than {MAX_EXPANSION} times its size"
                return
            yield piece

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
                    self.damage = f"the gzip data is damaged ({error})"
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
            self.damage = "the gzip data is truncated"

    def _zstd(self) -> Iterator[bytes]:
        source = _Tracked(self._stored())
        unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        reader = unpacker.stream_reader(
            cast("BinaryIO", source), read_size=CHUNK_BYTES, read_across_frames=True
        )
        while True:
            try:
                text = reader.read(CHUNK_BYTES)
            except zstandard.ZstdError as error:
                self.damage = f"the zstd data is damaged ({error})"
                return
            if not text:
                break
            yield text
        if not source.frames.whole:
            self.damage = "the zstd data is truncated"


class _Tracked:
    """Stored pieces as a file, with their frames followed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.frames = FrameTracker()

    def read(self, _: int = -1, /) -> bytes:
        # The unpacker takes pieces of any length.
        piece = next(self._pieces, b"")
        self.frames.feed(piece)
        return piece


def detect_codec(head: bytes) -> Codec:
    """Tell by its first bytes how an object is packed."""
    if head.startswith(_ZSTD):
        return "zstd"
    return "gzip" if head.startswith(_GZIP) else "plain"
