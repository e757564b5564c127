"""Compiled: JSON texts in their canonical form, and where they end.

In all functions `at` is a place in the text and `to` one in the output; -1 for `at` is nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.jit import njit_in_place

if TYPE_CHECKING:
    from engine.arrays import UInt8, UInt64

_QUOTE, _BACKSLASH, _SLASH, _COLON, _U = (ord(sign) for sign in '"\\/:u')
_ONES: Final = np.uint64(0x0101010101010101)
_HIGH: Final = np.uint64(0x8080808080808080)
_QUOTES: Final = np.uint64(0x2222222222222222)
_BACKSLASHES: Final = np.uint64(0x5C5C5C5C5C5C5C5C)
_SPACES: Final = np.uint64(0x2020202020202020)
_ZERO: Final = np.uint64(0)
_SPECIAL: Final = np.array([byte < 0x20 or byte >= 0x80 or chr(byte) in '"\\' for byte in range(256)])
"""Of each byte, whether it does not stand for itself in a text."""
_SHORT_ESCAPES: Final = tuple(b'"\\bfnrt')
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)


@njit_in_place
def literal(text: UInt8, words: UInt64, at: int, end: int, out: UInt8, to: int) -> tuple[int, int]:
    """Write a JSON text with no more escapes than it needs; return where it ends, -1 if it is none."""
    if at >= end or text[at] != _QUOTE:
        return -1, to
    start = at
    at += 1
    while True:
        at = _skip_canonical(text, words, at, end)
        if at < 0:
            return -1, to
        if text[at] == _QUOTE:
            return at + 1, copy(text, start, at + 1, out, to)
        to = copy(text, start, at, out, to)
        at, to = _rewritten(text, at + 1, end, out, to)
        if at < 0:
            return -1, to
        start = at


@njit_in_place
def skip_text(text: UInt8, words: UInt64, at: int, end: int) -> int:
    """Return where a JSON text ends that begins here, -1 if it is none."""
    if at < 0 or at >= end or text[at] != _QUOTE:
        return -1
    at += 1
    while True:
        at = _skip_canonical(text, words, at, end)
        if at < 0:
            return -1
        if text[at] == _QUOTE:
            return at + 1
        at = _escape(text, at + 1, end)[0]
        if at < 0:
            return -1


@njit_in_place
def _skip_canonical(text: UInt8, words: UInt64, at: int, end: int) -> int:
    """Skip what stands in a text as it would in canonical JSON; -1 if the text cannot go on so.

    What follows is the quote at its end, or an escape that is not in its shortest form, if it is one.
    """
    while True:
        at = _skip_plain(text, words, at, end)
        if at >= end or text[at] < 0x20:
            return -1
        if text[at] == _QUOTE:
            return at
        if text[at] != _BACKSLASH:
            size = _utf8(text, at, end)
            if size == 0:
                return -1
            at += size
        elif at + 1 < end and _is_short(text[at + 1]):
            at += 2
        else:
            return at


@njit_in_place
def _skip_plain(text: UInt8, words: UInt64, at: int, end: int) -> int:
    """Skip ASCII that stands for itself, eight bytes at a time where it can."""
    while at < end:
        if at & 7 == 0:
            while at + 8 <= end and _is_plain(words[at >> 3]):
                at += 8
            if at >= end:
                return at
        if _SPECIAL[text[np.uintp(at)]]:
            return at
        at += 1
    return at


@njit_in_place
def _is_plain(word: np.uint64) -> bool:
    """Tell whether none of eight bytes is a quote, a backslash, a control character or beyond ASCII."""
    # A byte minus one has its high bit set only where it was zero, given that no byte had it before.
    marks = word | (word - _SPACES) | ((word ^ _QUOTES) - _ONES) | ((word ^ _BACKSLASHES) - _ONES)
    return bool((marks & _HIGH) == _ZERO)


@njit_in_place
def _is_short(byte: np.uint8) -> bool:
    """Tell what follows the backslash of an escape of two characters."""
    return byte in _SHORT_ESCAPES


@njit_in_place
def _rewritten(text: UInt8, at: int, end: int, out: UInt8, to: int) -> tuple[int, int]:
    """Write the character of an escape that is not in its shortest form; `at` is behind the backslash."""
    at, code = _escape(text, at, end)
    return at, _encoded(code, out, to) if at >= 0 else to


@njit_in_place
def _escape(text: UInt8, at: int, end: int) -> tuple[int, int]:
    """Return where an escape ends that is no short one, and its character; -1 if it is none.

    `at` is behind the backslash.
    """
    if at < end and text[at] == _SLASH:
        return at + 1, _SLASH
    code = _code(text, at, end)
    at += 5
    if 0xD800 <= code < 0xDC00 and at < end and text[at] == _BACKSLASH:
        low = _code(text, at + 1, end)
        if 0xDC00 <= low < 0xE000:
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            at += 6
    if code < 0 or 0xD800 <= code < 0xE000:
        return -1, 0
    return at, code


@njit_in_place
def _code(text: UInt8, at: int, end: int) -> int:
    """Return the number of `uXXXX`, -1 if it is none."""
    if at + 5 > end or text[at] != _U:
        return -1
    code = 0
    for place in range(at + 1, at + 5):
        byte = int(text[place])
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= (byte | 32) <= 102:
            digit = (byte | 32) - 87
        else:
            return -1
        code = code * 16 + digit
    return code


@njit_in_place
def _encoded(code: int, out: UInt8, to: int) -> int:
    """Write a character as it stands in canonical JSON."""
    if code < 0x20 or code in (_QUOTE, _BACKSLASH):
        return _escaped(code, out, to)
    if code < 0x80:
        out[to] = code
        return to + 1
    if code < 0x800:
        out[to] = 0xC0 | (code >> 6)
        to += 1
    else:
        if code < 0x10000:
            out[to] = 0xE0 | (code >> 12)
        else:
            out[to] = 0xF0 | (code >> 18)
            to += 1
            out[to] = 0x80 | ((code >> 12) & 0x3F)
        to += 1
        out[to] = 0x80 | ((code >> 6) & 0x3F)
        to += 1
    out[to] = 0x80 | (code & 0x3F)
    return to + 1


@njit_in_place
def _escaped(code: int, out: UInt8, to: int) -> int:
    short = 0
    if code in (_QUOTE, _BACKSLASH):
        short = code
    elif code == 8:
        short = 98
    elif code == 9:
        short = 116
    elif code == 10:
        short = 110
    elif code == 12:
        short = 102
    elif code == 13:
        short = 114
    out[to] = _BACKSLASH
    if short:
        out[to + 1] = short
        return to + 2
    out[to + 1] = _U
    out[to + 2] = _HEX[0]
    out[to + 3] = _HEX[0]
    out[to + 4] = _HEX[code >> 4]
    out[to + 5] = _HEX[code & 15]
    return to + 6


@njit_in_place
def _utf8(text: UInt8, at: int, end: int) -> int:
    """Return how many bytes a character beyond ASCII has, 0 if it is none (RFC 3629, table of section 4)."""
    first = text[at]
    low, high = 0x80, 0xBF
    if 0xC2 <= first <= 0xDF:
        size = 2
    elif 0xE0 <= first <= 0xEF:
        size = 3
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
    elif 0xF0 <= first <= 0xF4:
        size = 4
        if first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
    else:
        return 0
    if at + size > end or not low <= text[at + 1] <= high:
        return 0
    for place in range(at + 2, at + size):
        if text[place] & 0xC0 != 0x80:
            return 0
    return size


@njit_in_place
def skip_space(text: UInt8, at: int, end: int) -> int:
    """Skip what JSON calls white space."""
    while at < end:
        byte = text[np.uintp(at)]
        if byte > 32 or (byte != 32 and byte != 9 and byte != 13 and byte != 10):
            break
        at += 1
    return at


@njit_in_place
def behind_colon(text: UInt8, at: int, end: int) -> int:
    """Return where the value behind a key begins, -1 if there is none."""
    if at < 0:
        return -1
    at = skip_space(text, at, end)
    if at >= end or text[at] != _COLON:
        return -1
    at = skip_space(text, at + 1, end)
    return at if at < end else -1


@njit_in_place
def skip_string(text: UInt8, at: int, end: int) -> int:
    """Return where a text ends that begins here, -1 if none does."""
    if at >= end or text[at] != _QUOTE:
        return -1
    at += 1
    while at < end:
        byte = text[np.uintp(at)]
        if byte == _QUOTE:
            return at + 1
        at += 2 if byte == _BACKSLASH else 1
    return -1


@njit_in_place
def equal(text: UInt8, at: int, other: UInt8, place: int, count: int) -> bool:
    """Tell whether `count` bytes are the same in both from their places on."""
    # With no way out in between and no signs, the compiler compares many at a time.
    different = np.uint8(0)
    for step in range(count):
        different |= text[np.uintp(at + step)] ^ other[np.uintp(place + step)]
    return bool(different == 0)


@njit_in_place
def copy(text: UInt8, at: int, end: int, out: UInt8, to: int) -> int:
    """Copy `text[at:end]`; return where it ends in `out`."""
    if at >= 0 and to >= 0:
        # Indices without a sign need no test for counting from the end: the compiler copies many at a time.
        for step in range(end - at):
            out[np.uintp(to + step)] = text[np.uintp(at + step)]
    return to + end - at
