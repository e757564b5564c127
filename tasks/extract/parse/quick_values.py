"""Compiled: where a JSON value ends that nobody looks at.

It is checked to its last byte all the same, since a line with one that is no JSON is no request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.jit import njit_in_place
from tasks.extract.parse.quick_json import behind_colon, skip_space, skip_text

if TYPE_CHECKING:
    from engine.arrays import UInt8, UInt64

_MOST_LEVELS: Final = 60
"""A value may be nested as deep; `tasks.extract.text.decode.MAX_DEPTH` is more."""
_LONGEST_NUMBER: Final = 25
_QUOTE, _COMMA, _OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = (ord(sign) for sign in '",{}[]')
_MINUS, _DOT, _ZERO, _NINE, _E = (ord(sign) for sign in "-.09e")
_SIGNS: Final = tuple(b"+-")
_TRUE, _FALSE, _NULL = (np.frombuffer(word, np.uint8) for word in (b"true", b"false", b"null"))


@njit_in_place
def skip_value(text: UInt8, words: UInt64, at: int, end: int) -> int:
    """Return where a JSON value ends that begins here; -1 if it is none, or unusual."""
    if at < end and text[at] != _OPEN and text[at] != _OPEN_LIST:
        return _skip_scalar(text, words, at, end)
    # A bit for each level of `objects`: 1 for an object, 0 for a list.
    depth = objects = 0
    while True:
        at, depth, objects, is_whole = _skip_start(text, words, at, end, depth, objects)
        if at >= 0 and is_whole:
            at, depth, objects = _skip_ends(text, words, at, end, depth, objects)
        if at < 0 or depth == 0:
            return at


@njit_in_place
def _skip_start(
    text: UInt8, words: UInt64, at: int, end: int, depth: int, objects: int
) -> tuple[int, int, int, bool]:
    """Skip a value without elements, or to the first of these; tell which."""
    if at >= end:
        return -1, depth, objects, False
    if text[at] not in (_OPEN, _OPEN_LIST):
        return _skip_scalar(text, words, at, end), depth, objects, True
    is_object = text[at] == _OPEN
    at = skip_space(text, at + 1, end)
    if at >= end or depth == _MOST_LEVELS:
        return -1, depth, objects, False
    if text[at] == (_CLOSE if is_object else _CLOSE_LIST):
        return at + 1, depth, objects, True
    at = _element(text, words, at, end, is_object)
    return at, depth + 1, (objects << 1) | is_object, False


@njit_in_place
def _skip_ends(
    text: UInt8, words: UInt64, at: int, end: int, depth: int, objects: int
) -> tuple[int, int, int]:
    """Skip the ends of values that end behind one that has, to the next element if there is one."""
    while depth > 0:
        at = skip_space(text, at, end)
        if at >= end:
            return -1, depth, objects
        is_object = objects & 1 == 1
        if text[at] == _COMMA:
            at = _element(text, words, skip_space(text, at + 1, end), end, is_object)
            return at, depth, objects
        if text[at] != (_CLOSE if is_object else _CLOSE_LIST):
            return -1, depth, objects
        at, depth, objects = at + 1, depth - 1, objects >> 1
    return at, depth, objects


@njit_in_place
def _element(text: UInt8, words: UInt64, at: int, end: int, is_member: bool) -> int:
    """Return where the value of an element begins, behind its name if it is a member; -1 if there is none."""
    if not is_member:
        return at
    return behind_colon(text, skip_text(text, words, at, end), end)


@njit_in_place
def _skip_scalar(text: UInt8, words: UInt64, at: int, end: int) -> int:
    """Return where a text, a number or a word ends, -1 if it is none."""
    byte = text[at]
    if byte == _QUOTE:
        return skip_text(text, words, at, end)
    if byte == _MINUS or _ZERO <= byte <= _NINE:
        return _skip_number(text, at, end)
    word = _FALSE if byte == _FALSE[0] else _TRUE if byte == _TRUE[0] else _NULL
    size: int = word.shape[0]
    if at + size > end:
        return -1
    for step in range(size):
        if text[np.uintp(at + step)] != word[step]:
            return -1
    return at + size


@njit_in_place
def _skip_number(text: UInt8, at: int, end: int) -> int:
    """Return where a number ends; -1 if it is none, or so long or large that parsers differ about it."""
    start = at
    if text[at] == _MINUS:
        at += 1
    digits = _skip_digits(text, at, end)
    if digits == at or (digits > at + 1 and text[at] == _ZERO):
        return -1
    at = digits
    if at < end and text[at] == _DOT:
        digits = _skip_digits(text, at + 1, end)
        if digits == at + 1:
            return -1
        at = digits
    if at - start > _LONGEST_NUMBER:
        return -1
    if at < end and text[at] | 32 == _E:
        at += 1
        if at < end and text[at] in _SIGNS:
            at += 1
        digits = _skip_digits(text, at, end)
        if digits == at or digits > at + 2:
            return -1
        at = digits
    return at


@njit_in_place
def _skip_digits(text: UInt8, at: int, end: int) -> int:
    while at < end and _ZERO <= text[at] <= _NINE:
        at += 1
    return at
