"""Compiled: take lines of JSON apart for a reader that looks at some of their members only.

What *decides* on a request is kept, with short stand-ins in the places of its long texts, which are written
in canonical JSON; what a request has of *its own* (name, times, lengths) is kept apart; everything else is
checked and left out. Only values of the fields `content` and `text` are taken out, and only those that are
prose: no mark of a masking tool, no JSON as text.

A line that is no object, or in any other doubt, is left alone. What is kept is not checked, and is the same
JSON as before: valid if it was, refused by a parser if it was not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.jit import entry, njit_in_place
from tasks.extract.parse.quick_json import (
    behind_colon,
    copy,
    equal,
    literal,
    skip_space,
    skip_string,
    skip_text,
)
from tasks.extract.parse.quick_members import CLASS, DECIDES, OWN, PART, row_of
from tasks.extract.parse.quick_values import skip_value

if TYPE_CHECKING:
    from engine.arrays import Int64, UInt8, UInt64

LEFT, LEFT_END, APART, APART_END, TEXT, TEXT_END, KEPT, BRACKETS, PLACES = range(9)
"""Columns of `places`: where what decides is, and what is a line's own; which texts are its own; where they
end; how many brackets are kept; how many columns."""
MOST_TEXTS: Final = 100
"""Texts that are taken out of a line; those after them stay. Two digits tell them apart."""
SHORTEST_MEMBER: Final = len('"text":"a b"')
"""Bytes of the least that a text is taken out of."""
_MOST_BRACKETS: Final = 100
"""Lines that keep more may be nested too deeply (`tasks.extract.text.decode.MAX_DEPTH`): left alone."""
MOST_LETTERS: Final = 40
"""No mark (`tasks.extract.readers.stand_ins.MARKS`) has more from g to z. Those with a space begin with a
bracket."""
_QUOTE, _BACKSLASH, _COLON, _COMMA, _SPACE, _ANGLE = (ord(sign) for sign in '"\\:, <')
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _G, _Z, _ZERO = (ord(sign) for sign in "{}[]gz0")
_WHITE_ESCAPES: Final = tuple(b"nrt")
_KEYS: Final = (
    np.frombuffer(b'"content"', np.uint8),
    np.frombuffer(b'"text"', np.uint8),
)
_CONTENT, _TEXT = _KEYS


@entry(
    in_place=True,
    dims={"members": 2, "texts": 2, "places": 2},
    frozen=("text", "words", "names", "members", "mark"),
)
def take_apart(
    text: UInt8,
    words: UInt64,
    begins: Int64,
    ends: Int64,
    names: UInt8,
    members: Int64,
    mark: UInt8,
    left: UInt8,
    apart: UInt8,
    canonical: UInt8,
    texts: Int64,
    places: Int64,
) -> int:
    """Take lines apart.

    Parameters
    ----------
    text : uint8 [n]
        Whole lines.
    words : uint64 [n // 8]
        The same bytes.
    begins, ends : int64 [lines]
        Where the lines begin and end, without their line feeds.
    names, members : uint8, int64 [m, COLUMNS]
        The members that are kept, see `tasks.extract.parse.quick_members.table_of`.
    mark : uint8
        What a stand-in begins with; two digits follow, the number of the text in its line.
    left : uint8 [n + texts * (mark + 2)]
        Gets what decides of one line after the other: an object each, without its last brace.
    apart : uint8 [n]
        Gets what is the lines' own, likewise.
    canonical : uint8 [n + 64]
        Gets the texts one after the other, without quotes: never more bytes than they had.
    texts : int64 [n // SHORTEST_MEMBER + 1, 2]
        Gets where each text begins and ends in `canonical`.
    places : int64 [lines, PLACES]
        Gets what belongs to a line; `LEFT` is -1 for lines that are left alone.

    Returns
    -------
    int
        How many texts were taken out.
    """
    to_left = to_apart = found = kept = 0
    for line in range(begins.shape[0]):
        place = places[line]
        place[LEFT], place[LEFT_END] = to_left, to_left
        place[APART], place[APART_END] = to_apart, to_apart
        place[TEXT], place[TEXT_END], place[KEPT], place[BRACKETS] = found, found, kept, 0
        at, end = skip_space(text, begins[line], ends[line]), ends[line]
        if at < end and text[at] == _OPEN:
            at = _object(text, words, at, end, names, members, mark, left, apart, canonical, texts, place)
        else:
            at = -1
        found, kept = place[TEXT_END], place[KEPT]
        if at < 0 or skip_space(text, at, end) < end or place[BRACKETS] > _MOST_BRACKETS:
            place[LEFT] = -1
        else:
            to_left, to_apart = place[LEFT_END], place[APART_END]
    return found


@njit_in_place
def _object(
    text: UInt8,
    words: UInt64,
    at: int,
    end: int,
    names: UInt8,
    members: Int64,
    mark: UInt8,
    left: UInt8,
    apart: UInt8,
    canonical: UInt8,
    texts: Int64,
    place: Int64,
) -> int:
    """Take an object apart; return where it ends, -1 for one that is left alone."""
    at = skip_space(text, at + 1, end)
    while True:
        close, value = _name(text, words, at, end)
        if value < 0:
            return -1
        row = row_of(text, at, close, names, members, -1)
        what = members[row, CLASS] if row >= 0 else 0
        behind = -1
        if what & DECIDES == 0 or what & OWN:
            behind = skip_value(text, words, value, end)
        if behind >= 0 and what & OWN:
            place[APART_END] = _member(text, at, close, apart, place[APART], place[APART_END])
            place[APART_END] = copy(text, close, behind, apart, place[APART_END])
        if what & DECIDES:
            place[LEFT_END] = _member(text, at, close, left, place[LEFT], place[LEFT_END])
            if what & PART and text[value] == _OPEN:
                behind = _part(
                    text, words, value, end, names, members, row, mark, left, canonical, texts, place
                )
            else:
                behind = _keep(text, words, close, value, end, mark, left, canonical, texts, place)
        at = _after_member(text, behind, end)
        if at < 0:
            return -1
        if text[at] == _CLOSE:
            return at + 1
        at = skip_space(text, at + 1, end)


@njit_in_place
def _part(
    text: UInt8,
    words: UInt64,
    at: int,
    end: int,
    names: UInt8,
    members: Int64,
    row: int,
    mark: UInt8,
    left: UInt8,
    canonical: UInt8,
    texts: Int64,
    place: Int64,
) -> int:
    """Keep some members of a member that is an object; return where it ends, -1 if the line is left alone."""
    left[place[LEFT_END]] = _COLON
    place[LEFT_END] += 1
    start = place[LEFT_END]
    place[BRACKETS] += 1
    at = skip_space(text, at + 1, end)
    if at < end and text[at] == _CLOSE:
        left[start] = _OPEN
        left[start + 1] = _CLOSE
        place[LEFT_END] = start + 2
        return at + 1
    while True:
        close, value = _name(text, words, at, end)
        if value < 0:
            return -1
        if row_of(text, at, close, names, members, row) >= 0:
            place[LEFT_END] = _member(text, at, close, left, start, place[LEFT_END])
            behind = _keep(text, words, close, value, end, mark, left, canonical, texts, place)
        else:
            behind = skip_value(text, words, value, end)
        at = _after_member(text, behind, end)
        if at < 0:
            return -1
        if text[at] == _CLOSE:
            break
        at = skip_space(text, at + 1, end)
    if place[LEFT_END] == start:
        left[start] = _OPEN
        place[LEFT_END] += 1
    left[place[LEFT_END]] = _CLOSE
    place[LEFT_END] += 1
    return at + 1


@njit_in_place
def _name(text: UInt8, words: UInt64, at: int, end: int) -> tuple[int, int]:
    """Return where a member's name ends and its value begins, -1 for one that may be another in disguise."""
    close = skip_text(text, words, at, end)
    value = behind_colon(text, close, end)
    return close, -1 if value >= 0 and _has_escape(text, at, close) else value


@njit_in_place
def _after_member(text: UInt8, at: int, end: int) -> int:
    """Return where the comma or the brace is behind a member's value that ends here, -1 without one."""
    at = skip_space(text, at, end) if at >= 0 else end
    return at if at < end and (text[at] == _COMMA or text[at] == _CLOSE) else -1


@njit_in_place
def _member(text: UInt8, at: int, close: int, out: UInt8, start: int, to: int) -> int:
    """Begin a member of an object that starts at `start`; return where its name ends."""
    out[to] = _OPEN if to == start else _COMMA
    return copy(text, at, close, out, to + 1)


@njit_in_place
def _has_escape(text: UInt8, at: int, end: int) -> bool:
    """Tell a name that could be another one spelled otherwise."""
    found = False
    for place in range(at, end):
        found |= text[place] == _BACKSLASH
    return found


@njit_in_place
def _keep(
    text: UInt8,
    words: UInt64,
    start: int,
    at: int,
    end: int,
    mark: UInt8,
    left: UInt8,
    canonical: UInt8,
    texts: Int64,
    place: Int64,
) -> int:
    """Keep the value at `at` without its texts, from the end of its name at `start`; return where it ends."""
    to = place[LEFT_END]
    depth = 0
    is_text = False
    while at < end:
        byte = text[at]
        if byte == _QUOTE:
            if is_text and place[TEXT_END] - place[TEXT] < MOST_TEXTS:
                is_text = False
                kept = place[KEPT]
                close, behind = literal(text, words, at, end, canonical, kept)
                if close >= 0 and _is_prose(canonical, kept + 1, behind - 1):
                    found = place[TEXT_END]
                    to = _stand_in(text, start, at + 1, mark, found - place[TEXT], left, to)
                    start = close - 1
                    at = close
                    texts[found, 0], texts[found, 1] = kept + 1, behind - 1
                    place[KEPT] = behind
                    place[TEXT_END] = found + 1
                    continue
            close = skip_string(text, at, end)
            if close < 0:
                return -1
            colon = skip_space(text, close, end)
            is_text = colon < end and text[colon] == _COLON and _is_key(text, at, close)
            at = close
            if depth == 0:
                break
            continue
        if byte in (_OPEN, _OPEN_LIST):
            depth += 1
            place[BRACKETS] += 1
        elif byte in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                break
            depth -= 1
            if depth == 0:
                at += 1
                break
        elif byte == _COMMA and depth == 0:
            break
        is_text = is_text and (byte == _COLON or byte <= _SPACE)
        at += 1
    place[LEFT_END] = copy(text, start, at, left, to)
    return at


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
