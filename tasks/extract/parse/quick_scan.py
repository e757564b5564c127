"""Compiled: match request lines with known beginnings, and write their messages in canonical JSON.

A line that differs from others in its name and its messages only is a *head* of two pieces, a tail, and two
*holes* in between, the values of `custom_id` and of `messages`: piece, hole, piece, hole, tail. Pieces are
compared and holes are checked to the last byte. A line that is in any doubt is left alone.

In all functions `at` is a place in the text and `to` one in the output; -1 for `at` is nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.jit import entry, njit_in_place
from tasks.extract.parse.quick_json import behind_colon, copy, equal, literal, skip_space, skip_string

if TYPE_CHECKING:
    from engine.arrays import Int64, UInt8, UInt64

HEAD, NAME, NAME_END, TAIL, OUT, OUT_END, PLACES = range(7)
"""Columns of `places`: number of the head, places in the text and in the output; then how many columns."""
NAME_FIRST, FIRST, FIRST_END, SECOND_END, PIECES = range(5)
"""Columns of `pieces`: whether the name comes before the messages, places in `heads`; how many columns."""

_COMMA, _OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _BACKSLASH = (ord(sign) for sign in ",{}[]\\")


def _ascii(text: str) -> UInt8:
    return np.frombuffer(text.encode(), np.uint8)


_ROLE, _CONTENT = _ascii('"role"'), _ascii('"content"')
_USER, _ASSISTANT = _ascii('"user"'), _ascii('"assistant"')
_SYSTEM, _DEVELOPER = _ascii('"system"'), _ascii('"developer"')
_CONTENT_STARTS, _ROLE_FOLLOWS = _ascii('{"content":'), _ascii(',"role":')


@entry(in_place=True, dims={"pieces": 2, "places": 2}, frozen=("text", "words", "heads"))
def scan(
    text: UInt8,
    words: UInt64,
    begins: Int64,
    ends: Int64,
    heads: UInt8,
    pieces: Int64,
    out: UInt8,
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
    heads : uint8
        All known heads, one after the other, sorted so that those with the same first piece stand together.
    pieces : int64 [heads, PIECES]
        Where the pieces of the heads are.
    out : uint8 [n + 64]
        Gets the messages of the lines one after the other: never more bytes than they had.
    places : int64 [lines, PLACES]
        Gets where everything is; `HEAD` is -1 for lines that are left alone.

    Returns
    -------
    int
        How many lines were taken apart.
    """
    found = to = likely = 0
    for line in range(begins.shape[0]):
        place = places[line]
        place[HEAD], place[OUT], place[OUT_END] = -1, to, to
        head = _match(text, words, begins[line], ends[line], heads, pieces, likely, out, place)
        if head >= 0:
            likely, place[HEAD], to = head, head, place[OUT_END]
            found += 1
    return found


@njit_in_place
def _match(
    text: UInt8,
    words: UInt64,
    begin: int,
    end: int,
    heads: UInt8,
    pieces: Int64,
    likely: int,
    out: UInt8,
    place: Int64,
) -> int:
    """Return the head that a line has, -1 for none, beginning with the likely one."""
    count = pieces.shape[0]
    before, close, to = -1, -1, place[OUT]
    for step in range(count):
        head = (likely + step) % count
        piece = pieces[head]
        size = piece[FIRST_END] - piece[FIRST]
        at = begin + size
        if at >= end or not equal(text, begin, heads, piece[FIRST], size):
            continue
        if before < 0 or not _same_start(heads, pieces[before], piece):
            # Else its first hole is known already.
            before = head
            close, to = _hole(text, words, at, end, piece[NAME_FIRST] == 1, out, place[OUT], place)
        size = piece[SECOND_END] - piece[FIRST_END]
        at = close + size
        if close < 0 or at >= end or not equal(text, close, heads, piece[FIRST_END], size):
            continue
        at, to = _hole(text, words, at, end, piece[NAME_FIRST] == 0, out, to, place)
        if at < 0:
            return -1
        place[TAIL], place[OUT_END] = at, to
        return int(head)
    return -1


@njit_in_place
def _same_start(heads: UInt8, one: Int64, other: Int64) -> bool:
    size = one[FIRST_END] - one[FIRST]
    same = one[NAME_FIRST] == other[NAME_FIRST] and size == other[FIRST_END] - other[FIRST]
    return bool(same) and equal(heads, one[FIRST], heads, other[FIRST], size)


@njit_in_place
def _hole(
    text: UInt8, words: UInt64, at: int, end: int, is_name: bool, out: UInt8, to: int, place: Int64
) -> tuple[int, int]:
    """Read the name, or write the messages."""
    if not is_name:
        return _messages(text, words, at, end, out, to)
    close = _name(text, words, at, end, out, to)
    place[NAME], place[NAME_END] = at, close
    return close, to


@entry(in_place=True, frozen=("text",))
def gather(text: UInt8, begins: Int64, ends: Int64, out: UInt8) -> int:
    """Copy pieces of a text one after the other; return how many bytes that are."""
    to = 0
    for piece in range(begins.shape[0]):
        to = copy(text, begins[piece], ends[piece], out, to)
    return to


@njit_in_place
def _name(text: UInt8, words: UInt64, at: int, end: int, out: UInt8, to: int) -> int:
    """Return where a text that is not empty and has no escapes ends, -1 for anything else."""
    close = skip_string(text, at, end)
    if close - at <= 2:
        return -1
    for place in range(at, close):
        if text[place] == _BACKSLASH:
            return -1
    # What it writes is overwritten.
    return literal(text, words, at, end, out, to)[0]


@njit_in_place
def _messages(text: UInt8, words: UInt64, at: int, end: int, out: UInt8, to: int) -> tuple[int, int]:
    """Write a list of messages; return where it ends in text and output, -1 if it is another list."""
    if text[at] != _OPEN_LIST:
        return -1, to
    out[to] = _OPEN_LIST
    to += 1
    while True:
        at, to = _message(text, words, skip_space(text, at + 1, end), end, out, to)
        at = skip_space(text, at, end) if at >= 0 else end
        if at >= end or (text[at] != _COMMA and text[at] != _CLOSE_LIST):
            return -1, to
        out[to] = text[at]
        to += 1
        if text[at] == _CLOSE_LIST:
            return at + 1, to


@njit_in_place
def _message(text: UInt8, words: UInt64, at: int, end: int, out: UInt8, to: int) -> tuple[int, int]:
    """Write `{"content":...,"role":...}`, in whichever order they come."""
    if at >= end or text[at] != _OPEN:
        return -1, to
    to = copy(_CONTENT_STARTS, 0, _CONTENT_STARTS.shape[0], out, to)
    role = role_end = content = -1
    for member in range(2):
        key = skip_space(text, at + 1, end)
        key_end = skip_string(text, key, end)
        at = behind_colon(text, key_end, end)
        if at < 0:
            return -1, to
        if content < 0 and _is(text, key, key_end, _CONTENT):
            content = at
            at, to = literal(text, words, at, end, out, to)
        elif role < 0 and _is(text, key, key_end, _ROLE):
            role, role_end = at, _role(text, at, end)
            at = role_end
        else:
            return -1, to
        at = skip_space(text, at, end) if at >= 0 else end
        if at >= end or text[at] != (_COMMA if member == 0 else _CLOSE):
            return -1, to
    to = copy(_ROLE_FOLLOWS, 0, _ROLE_FOLLOWS.shape[0], out, to)
    to = copy(text, role, role_end, out, to)
    out[to] = _CLOSE
    return at + 1, to + 1


@njit_in_place
def _role(text: UInt8, at: int, end: int) -> int:
    """Return where the name of a role ends, -1 if it is none."""
    close = skip_string(text, at, end)
    known = (
        _is(text, at, close, _USER)
        or _is(text, at, close, _ASSISTANT)
        or _is(text, at, close, _SYSTEM)
        or _is(text, at, close, _DEVELOPER)
    )
    return close if known else -1


@njit_in_place
def _is(text: UInt8, at: int, end: int, wanted: UInt8) -> bool:
    return end - at == wanted.shape[0] and equal(text, at, wanted, 0, wanted.shape[0])
