"""Follows the frames of zstd data, to tell an ended stream from a cut one (RFC 8878, section 3)."""

from __future__ import annotations

from typing import Final

_SKIPPABLE: Final = 0x184D2A50
_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_SIZE_BYTES: Final = (0, 2, 4, 8)


class FrameTracker:
    """Walk over frame and block headers only; nothing is unpacked.

    Attributes
    ----------
    whole : bool
        Whether the data so far ends where a frame ends (or is empty).
    """

    def __init__(self) -> None:
        self.whole = True
        self._skip = 0
        self._buffer = b""
        self._expect = "magic"
        self._checksum = False

    def feed(self, data: bytes) -> None:
        """Follow the next bytes."""
        place = 0
        while place < len(data):
            if self._skip:
                step = min(self._skip, len(data) - place)
                self._skip -= step
                place += step
            else:
                missing = self._wanted() - len(self._buffer)
                self._buffer += data[place : place + missing]
                place += missing
                if len(self._buffer) >= self._wanted():
                    self._step()
            self.whole = self._expect == "magic" and not self._skip and not self._buffer

    def _wanted(self) -> int:
        if self._expect == "header":
            # The descriptor says how long the header is.
            return 1 + (_header_bytes(self._buffer[0]) if self._buffer else 0)
        return {"magic": 4, "skippable": 4, "block": 3}[self._expect]

    def _step(self) -> None:
        found, self._buffer = self._buffer, b""
        value = int.from_bytes(found, "little")
        if self._expect == "magic":
            self._expect = "skippable" if value & ~0xF == _SKIPPABLE else "header"
        elif self._expect == "skippable":
            self._skip, self._expect = value, "magic"
        elif self._expect == "header":
            self._checksum, self._expect = bool(found[0] & 4), "block"
        else:
            last, kind, size = value & 1, value >> 1 & 3, value >> 3
            # A block of one repeated byte stores that byte.
            self._skip = 1 if kind == 1 else size
            if last:
                self._skip += 4 * self._checksum
                self._expect = "magic"


def _header_bytes(descriptor: int) -> int:
    single = descriptor >> 5 & 1
    size = _SIZE_BYTES[descriptor >> 6] or single
    return (1 - single) + _DICTIONARY_BYTES[descriptor & 3] + size
