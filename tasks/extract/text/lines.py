"""Raw lines of an object, in bounded memory: blocks of whole lines, which are cut into lines.

Lines are cut at line feeds only; nothing is decoded or parsed here. Text that ends in damage gives all lines
before the damage and one `ReadFailure`; the cut line in front of the damage belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from tasks.extract.text.decompress import TextStream


BLOCK_BYTES: Final = 4 << 20
_LINE_FEED: Final = 10
KEPT_BYTES: Final = 8192
"""How much of a line over the limit is kept."""


class RawLine(NamedTuple):
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
    end
        At most the last `KEPT_BYTES` of what follows `data`, where that is cut.
    """

    number: int
    offset: int
    length: int
    data: bytes
    too_long: bool
    end: bytes = b""


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


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive whole lines, or one line that is too long to be held.

    Attributes
    ----------
    first
        Number of its first line, from 1.
    offset
        Where it begins in the uncompressed object.
    pieces
        Its text, in order; of a line that is too long the beginning and the end. It may be overwritten by
        later blocks, where it comes from memory that they share.
    lines
        How many lines it has; all but the object's last end in a line feed.
    length
        0, or the length of its one line that is too long.
    """

    first: int
    offset: int
    pieces: tuple[bytes | memoryview, ...]
    lines: int
    length: int = 0

    @property
    def data(self) -> bytes | memoryview:
        """Its text; a copy, unless it is in one piece."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    def joined(self) -> Block:
        """Return the same block in one piece."""
        return replace(self, pieces=(self.data,))

    def bounds(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where its lines begin and end in `data`, without line feeds; not for a too long line."""
        ends = np.flatnonzero(np.frombuffer(self.data, np.uint8) == _LINE_FEED)
        if not len(ends) or ends[-1] != len(self.data) - 1:
            ends = np.append(ends, len(self.data))
        begins = np.zeros_like(ends)
        begins[1:] = ends[:-1] + 1
        return begins, ends

    def line(self, number: int, begin: int, end: int, max_line_bytes: int) -> RawLine:
        """Return one of its lines; `number` is its number in the object."""
        length = end - begin
        too_long = length > max_line_bytes
        if not too_long:
            return RawLine(number, self.offset + begin, length, bytes(self.data[begin:end]), too_long)
        kept = min(end, begin + KEPT_BYTES)
        data, last = bytes(self.data[begin:kept]), bytes(self.data[max(kept, end - KEPT_BYTES) : end])
        return RawLine(number, self.offset + begin, length, data, too_long, last)

    def split(self, max_line_bytes: int) -> Iterator[RawLine]:
        """Yield its lines."""
        if self.length:
            yield self.long_line()
            return
        whole = self.joined()
        begins, ends = whole.bounds()
        for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True), self.first):
            yield whole.line(number, begin, end, max_line_bytes)

    def long_line(self) -> RawLine:
        """Return its one line that is too long."""
        data = bytes(self.data)
        kept, last = data[:KEPT_BYTES], data[KEPT_BYTES:]
        return RawLine(self.first, self.offset, self.length, kept, True, last)  # noqa: FBT003


class BlockReader:
    """Iterate once over a text in blocks of about `BLOCK_BYTES`, never much longer than a line may be.

    Attributes
    ----------
    failure : ReadFailure or None
        After the iteration: what could not be read.
    """

    def __init__(self, text: TextStream, max_line_bytes: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.failure: ReadFailure | None = None
        self._text = text
        self._limit = max_line_bytes
        self._size = block_bytes
        self._number = 1
        self._offset = 0
        self._held: list[bytes | memoryview] = []
        self._held_bytes = self._feeds = 0
        self._marks = np.empty(0, np.bool_)
        # Bytes after the last line feed: of what is held, or skipped if they are over the limit.
        self._tail = 0
        self._skipped: bytes | None = None

    def __iter__(self) -> Iterator[Block]:
        for chunk in self._text:
            if self._skipped is not None:
                end = chunk.find(b"\n")
                rest = chunk if end < 0 else chunk[:end]
                self._tail += len(rest)
                self._skipped = _kept(self._skipped, rest)
                if end < 0:
                    continue
                yield self._long_line(1)
                chunk = chunk[end + 1 :]  # noqa: PLW2901 - what is left of it
            self._hold(chunk)
            if self._tail > self._limit:
                whole = self._cut()
                if whole is not None:
                    yield whole
                self._skipped = _kept(b"", b"".join(self._held))
                self._held, self._held_bytes, self._feeds = [], 0, 0
            elif self._held_bytes >= self._size and self._tail < self._held_bytes:
                whole = self._cut()
                if whole is not None:
                    yield whole
        yield from self._last()

    def _last(self) -> Iterator[Block]:
        damage = self._text.damage
        if damage is None and self._skipped is not None:
            yield self._long_line(0)
            return
        if damage is None:
            self._tail = 0
        whole = self._cut()
        if whole is not None:
            yield whole
        if damage is not None:
            self.failure = ReadFailure(self._text.bytes_read, self._offset, damage)

    def _hold(self, chunk: bytes) -> None:
        if not chunk:
            return
        last = chunk.rfind(b"\n")
        self._tail = len(chunk) - last - 1 if last >= 0 else self._tail + len(chunk)
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if last >= 0:
            # Several times as fast as `bytes.count`, and into the same memory every time.
            if len(self._marks) < len(chunk):
                self._marks = np.empty(len(chunk), np.bool_)
            marks = self._marks[: len(chunk)]
            np.equal(np.frombuffer(chunk, np.uint8), _LINE_FEED, out=marks)
            self._feeds += int(np.count_nonzero(marks))

    def _cut(self) -> Block | None:
        """Return what is held up to the tail, which stays; None if there is nothing before it."""
        if self._skipped is not None or self._held_bytes == self._tail:
            return None
        left = self._held_bytes - self._tail
        pieces: list[bytes | memoryview] = []
        tail: list[bytes | memoryview] = []
        for piece in self._held:
            if left:
                pieces.append(memoryview(piece)[:left])
            if left < len(piece):
                # A copy: the tail must not keep the whole piece.
                tail.append(bytes(memoryview(piece)[left:]))
            left = max(left - len(piece), 0)
        lines = self._feeds + (pieces[-1][-1] != _LINE_FEED)
        block = Block(self._number, self._offset, tuple(pieces), lines)
        self._offset += self._held_bytes - self._tail
        self._number += lines
        self._held, self._held_bytes, self._feeds = tail, self._tail, 0
        return block

    def _long_line(self, end_bytes: int) -> Block:
        block = Block(self._number, self._offset, (self._skipped or b"",), 1, self._tail)
        self._number += 1
        self._offset += self._tail + end_bytes
        self._skipped, self._tail = None, 0
        return block


def _kept(before: bytes, more: bytes) -> bytes:
    """Return what is kept of a line that is too long: its first and its last `KEPT_BYTES`, together."""
    text = before + more
    return text if len(text) <= 2 * KEPT_BYTES else text[:KEPT_BYTES] + text[-KEPT_BYTES:]
