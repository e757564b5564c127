"""What a server is shown to see whether it takes images: a small grey one, made here."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, Final

SIDE: Final = 64
"""Pixels: some processors refuse smaller ones than a cell of their patches."""
TEXT_PART: Final = {"type": "text", "text": "Hello"}


def image_part() -> dict[str, Any]:
    """Return an `image_url` part with a grey square."""
    text = base64.b64encode(grey_png(SIDE)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}


def grey_png(side: int) -> bytes:
    """Return a grey square as PNG: RGB, 8 bits."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x80\x80\x80" * side) * side
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
