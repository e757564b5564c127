"""Compiled: take the long texts out of lines of JSON, and write each in canonical JSON.

What is left of a line has short stand-ins in their places, and is the same JSON otherwise: valid if the line
was, refused by a parser if it was not. Only values of the fields `content` and `text` are taken out, and only
those that are prose: no mark of a masking tool, no JSON as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.jit import entry, njit_in_place
from tasks.extract.parse.quick_scan import copy, equal, literal, skip_space, skip_string

if TYPE_CHECKING:
    from engine.arrays import Int64, UInt8, UInt64

OUT, OUT_END, TEXT, TEXT_END, PLACES = range(5)
"""Columns of `places`: where what is left of the line is, and which texts are its own; how many columns."""
MOST_TEXTS: Final = 100
"""Texts that are taken out of a line; those after them stay. Two digits tell them apart."""
SHORTEST_MEMBER: Final = len('"text":"a b"')
"""Bytes of the least that a text is taken out of."""
_MOST_BRACKETS: Final = 100
"""Lines with more may be nested too deeply, and are left alone; `tasks.extract.text.decode.MAX_DEPTH`."""
MOST_LETTERS: Final = 40
"""No mark (`tasks.extract.readers.stand_ins.MARKS`) has more from g to z. Those with a space begin with a
bracket."""
_QUOTE, _BACKSLASH, _COLON, _SPACE, _ANGLE = (ord(sign) for sign in '"\\: <')
_OPEN, _OPEN_LIST, _G, _Z, _ZERO = (ord(sign) for sign in "{[gz0")
_WHITE_ESCAPES: Final = tuple(b"nrt")
_KEYS: Final = (
    np.frombuffer(b'"content"', np.uint8),
    np.frombuffer(b'"text"', np.uint8),
)
_CONTENT, _TEXT = _KEYS


@entry(in_place=True, dims={"texts": 2, "places": 2}, frozen=("text", "words", "mark"))
def shorten(
    text: UInt8,
    words: UInt64,
    begins: Int64,
    ends: Int64,
    mark: UInt8,
    out: UInt8,
    canonical: UInt8,
    texts: Int64,
    places: Int64,
) -> int:
    """Take the texts out of lines.

    Parameters
    ----------
    text : uint8 [n]
        Whole lines.
    words : uint64 [n // 8]
        The same bytes.
    begins, ends : int64 [lines]
        Where the lines begin and end, without their line feeds.
    mark : uint8
        What a stand-in begins with; two digits follow, the number of the text in its line.
    out : uint8 [n + texts * (mark + 2)]
        Gets what is left of the lines, one after the other.
    canonical : uint8 [n + 64]
        Gets the texts one after the other, without quotes: never more bytes than they had.
    texts : int64 [n // SHORTEST_MEMBER + 1, 2]
        Gets where each text begins and ends in `canonical`.
    places : int64 [lines, PLACES]
        Gets what belongs to a line; `OUT` is -1 for lines that are left alone.

    Returns
    -------
    int
        How many texts were taken out.
    """
    to = found = kept = 0
    for line in range(begins.shape[0]):
        place = places[line]
        place[OUT], place[TEXT] = to, found
        at = start = begins[line]
        end = ends[line]
        brackets = 0
        is_text = False
        while at < end:
            byte = text[at]
            if byte != _QUOTE:
                brackets += byte in (_OPEN, _OPEN_LIST)
                is_text = is_text and (byte == _COLON or byte <= _SPACE)
                at += 1
                continue
            if is_text and found - place[TEXT] < MOST_TEXTS:
                is_text = False
                close, behind = literal(text, words, at, end, canonical, kept)
                if close >= 0 and _is_prose(canonical, kept + 1, behind - 1):
                    to = _stand_in(text, start, at + 1, mark, found - place[TEXT], out, to)
                    start = at = close - 1
                    at += 1
                    texts[found, 0], texts[found, 1] = kept + 1, behind - 1
                    kept = behind
                    found += 1
                    continue
            close = skip_string(text, at, end)
            if close < 0:
                break
            colon = skip_space(text, close, end)
            is_text = colon < end and text[colon] == _COLON and _is_key(text, at, close)
            at = close
        to = copy(text, start, end, out, to)
        place[OUT_END], place[TEXT_END] = to, found
        if brackets > _MOST_BRACKETS:
            place[OUT] = -1
    return found


@njit_in_place
def _stand_in(text: UInt8, start: int, at: int, mark: UInt8, number: int, out: UInt8, to: int) -> int:
    """Write what lies before a text, and its stand-in; return where that ends."""
    to = copy(text, start, at, out, to)
    to = copy(mark, 0, mark.shape[0], out, to)
    out[to] = _ZERO + number // 10
    out[to + 1] = _ZERO + number % 10
    return to + 2


@njit_in_place
def _is_key(text: UInt8, at: int, end: int) -> bool:
    size = end - at
    if size == _CONTENT.shape[0]:
        return equal(text, at, _CONTENT, 0, size)
    return size == _TEXT.shape[0] and equal(text, at, _TEXT, 0, size)


@njit_in_place
def _is_prose(canonical: UInt8, at: int, end: int) -> bool:
    """Tell a text that no reader takes for anything else, by its canonical form without quotes.

    It is no JSON, since it begins with another sign, and no mark, since it has more letters than any of them,
    or one beyond ASCII; or because it has a space, and nothing at its ends that could be white space.
    """
    first = at
    while first < end and canonical[first] == _SPACE:
        first += 1
    while first + 1 < end and canonical[first] == _BACKSLASH and canonical[first + 1] in _WHITE_ESCAPES:
        first += 2
        while first < end and canonical[first] == _SPACE:
            first += 1
    if first >= end or canonical[first] in (_OPEN, _OPEN_LIST):
        return False
    if canonical[first] == _BACKSLASH and canonical[first + 1] not in (_QUOTE, _BACKSLASH):
        return False
    if canonical[first] >= 0x80 and not _is_letter_beyond(canonical, first, end):
        return False
    letters = spaces = 0
    for place in range(first, end):
        byte = canonical[place]
        if byte >= 0xC0 and _is_letter_beyond(canonical, place, end):
            return True
        spaces += byte == _SPACE
        # Neither an escape nor its digits.
        if _G <= (byte | 32) <= _Z and (place == first or canonical[place - 1] != _BACKSLASH):
            letters += 1
            if letters > MOST_LETTERS:
                return True
    last = canonical[end - 1]
    return bool(
        first == at
        and spaces > 0
        and canonical[first] not in (_ANGLE, _BACKSLASH)
        and 0x20 < last < 0x7F
        and canonical[end - 2] != _BACKSLASH
        and (end - at < 6 or canonical[end - 6] != _BACKSLASH)
    )


@njit_in_place
def _is_letter_beyond(canonical: UInt8, at: int, end: int) -> bool:
    """Tell a character beyond ASCII that is surely no white space, by its first bytes in UTF-8."""
    byte = canonical[at]
    if byte in (0xC2, 0xE1, 0xE2):
        return False
    return byte != 0xE3 or (at + 2 < end and (canonical[at + 1] != 0x80 or canonical[at + 2] != 0x80))
