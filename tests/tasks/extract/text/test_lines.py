from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.extract.text import decompress
from tests.support.parsing import read_lines

if TYPE_CHECKING:
    from tasks.extract.text.lines import RawLine, ReadFailure


def read(
    data: bytes, *, compressed: bool = False, limit: int = 1000
) -> tuple[list[RawLine], ReadFailure | None]:
    return read_lines(data, max_line_bytes=limit, codec="gzip" if compressed else "plain")


TEXT = st.lists(st.binary(max_size=30) | st.sampled_from([b"", b"\r", b"x" * 50]), max_size=20).map(
    b"\n".join
)


@given(TEXT, st.integers(1, 40), st.integers(1, 60), st.booleans())
def test_lines_are_those_of_split(text: bytes, chunk: int, limit: int, compressed: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompress, "CHUNK_BYTES", chunk)
        found, failure = read(gzip.compress(text) if compressed else text, compressed=compressed, limit=limit)
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert failure is None
    assert [line.number for line in found] == list(range(1, len(expected) + 1))
    for line, data in zip(found, expected, strict=True):
        assert line.length == len(data)
        assert text[line.offset : line.offset + line.length] == data
        assert line.too_long == (len(data) > limit)
        assert line.data == data


def test_a_long_line_is_not_held() -> None:
    found, _ = read(b"a" * (3 << 20) + b"\nb", limit=10_000)
    assert (found[0].too_long, found[0].length, len(found[0].data)) == (True, 3 << 20, 8192)
    assert found[1].data == b"b"


@given(TEXT.filter(bool), st.data())
def test_a_truncated_gzip_gives_whole_lines_and_one_failure(text: bytes, data: st.DataObject) -> None:
    packed = gzip.compress(text)
    cut = data.draw(st.integers(1, len(packed) - 1))
    found, failure = read(packed[:cut], compressed=True)
    assert failure is not None
    assert failure.byte_offset == cut
    read_text = text[: failure.text_offset]
    assert b"".join(line.data + b"\n" for line in found) == read_text


def test_damage_in_the_middle_is_one_failure() -> None:
    text = b"".join(b"%d\n" % (i * i * 7919) for i in range(200_000))
    packed = bytearray(gzip.compress(text))
    packed[len(packed) * 3 // 4 :] = b"\xff" * (len(packed) // 4)
    found, failure = read(bytes(packed), compressed=True)
    assert failure is not None
    assert 0 < len(found) < 200_000
    assert text.startswith(b"".join(line.data + b"\n" for line in found))


def test_members_padding_and_garbage() -> None:
    two = gzip.compress(b"a\nb") + b"\0" * 10 + gzip.compress(b"c\n") + b"\0" * 5
    found, failure = read(two, compressed=True)
    assert [line.data for line in found] == [b"a", b"bc"]
    assert failure is None
    _, failure = read(gzip.compress(b"a\n") + b"junk", compressed=True)
    assert failure is not None
    assert read(b"", compressed=True)[0] == []


def test_memory_is_bounded_by_the_text_in_hand() -> None:
    # 64 MB of zeros in 64 kB: inflated piece by piece.
    bomb = zlib.compressobj(wbits=31)
    packed = b"".join(bomb.compress(b"\0" * (1 << 20)) for _ in range(64)) + bomb.flush()
    found, failure = read(packed, compressed=True, limit=1 << 20)
    assert failure is None
    assert (found[0].length, found[0].too_long) == (64 << 20, True)
