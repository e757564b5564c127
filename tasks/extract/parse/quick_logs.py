"""The quick way for logs of tools: records that differ in their texts, names, times and lengths only.

A block of lines is taken apart at once (`tasks.extract.parse.quick_texts`): what a reader looks at is kept,
without its long texts. What a record comes to, beside its name, time and lengths, is worked out by the
general way once, with stand-ins for the texts, and remembered: for the bytes that decide, so that most lines
need no more than to be looked up, and for what a reader says of them (`Outline.key`). Lines for which that is
not possible are left to the general way, which gives the same rows (a test holds the two together).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import orjson

from engine.arrays import frozen
from tasks.base.errors import QuarantineError
from tasks.extract.parse.quick_lines import FEWEST_LINES, Frame, QuickRows, aligned, digests, ends_of
from tasks.extract.parse.quick_members import table_of
from tasks.extract.parse.quick_texts import (
    APART,
    APART_END,
    LEFT,
    LEFT_END,
    PLACES,
    SHORTEST_MEMBER,
    TEXT,
    TEXT_END,
    take_apart,
)
from tasks.requests.bodies import ROUNDED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import date, datetime

    import numpy.typing as npt

    from tasks.extract.readers.contract import Outline, Own
    from tasks.extract.text.lines import Block

    Integers = npt.NDArray[np.int64]

_MOST_KINDS: Final = 1024
_LONGEST_KEY: Final = 16 << 10
_TRIAL: Final = 2000
"""Lines after which it is seen whether the quick way is one."""
_FEWEST: Final = 0.2
"""Share of lines that it has to be the way for."""
_CUT: Final = b"litellm_truncated"
"""What is in a text that LiteLLM has cut; see `tasks.extract.readers.stand_ins`."""
PER_REQUEST: Final = ("event_time", "observed_output_tokens", "observed_latency_s")
"""Columns of `Own`, behind the name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What records of one kind have in common.

    Attributes
    ----------
    frame
        Their columns, and what enters their digests.
    messages
        Their `messages_json`, with stand-ins for texts.
    """

    frame: Frame
    messages: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A kind, with its messages cut at the stand-ins: a first piece, then numbers of texts and pieces."""

    frame: Frame
    first: bytes
    rest: tuple[tuple[int, bytes], ...]
    texts: int
    """One more than the highest number of a text."""


_Row: TypeAlias = "tuple[int, str, datetime | None, int | None, float | None, Frame, bytes]"
"""A request that was read the quick way: the place of its line, what is its own, what its kind has in common,
and its messages."""


class QuickLogs:
    """Reads blocks of one object as far as it can.

    Parameters
    ----------
    outline : Outline
        Of the reader.
    learn : callable
        Takes a record with stand-ins for its texts, what is its own, and what all stand-ins begin with;
        returns what is common to the requests of this kind, None if they are for the general way.
    names : (str, date, str)
        Job, date and object, which enter the ids of requests.
    window : (datetime, datetime) or None
        Requests made outside of it are for the general way.
    """

    def __init__(
        self,
        outline: Outline,
        learn: Callable[[Mapping[str, Any], Own, str], Kind | None],
        names: tuple[str, date, str],
        window: tuple[datetime, datetime] | None,
    ) -> None:
        self._outline, self._learn = outline, learn
        self._names, self._members = table_of(outline.decides, outline.own)
        job, run_date, source_uri = names
        place = orjson.dumps(["request", job, run_date.isoformat(), source_uri])
        self._id_start = place[:-1] + b',["custom_id",'
        self._window = window
        self._kinds: dict[bytes, _Known | None] = {}
        self._once: set[bytes] = set()
        # The same by the bytes that decide, which tell it before they are parsed.
        self._seen: dict[bytes, _Known | None] = {}
        # Nobody who writes a log can know it.
        self._mark = secrets.token_hex(8)
        self._mark_bytes = frozen(np.frombuffer(self._mark.encode(), np.uint8))
        self._stand_in = re.compile(self._mark.encode() + rb"(\d\d)")
        self._tried = self._read = 0
        self._room = _Room(0, 0)

    def read(self, block: Block, begins: Integers, ends: Integers, max_line_bytes: int) -> QuickRows | None:
        """Read the lines of a block that can be read the quick way.

        Parameters
        ----------
        block : Block
            The block.
        begins, ends : int64 [lines]
            Its lines.
        max_line_bytes : int
            Longer lines are for the general way.

        Returns
        -------
        QuickRows or None
            None for no line.
        """
        lengths = ends - begins
        at = np.flatnonzero((lengths > 0) & (lengths <= max_line_bytes))
        if len(at) < FEWEST_LINES or (self._tried >= _TRIAL and self._read < _FEWEST * self._tried):
            return None
        begins, ends = begins[at], ends[at]
        found = self._found(aligned(block.data), begins, ends)
        self._tried += len(at)
        self._read += len(found)
        if not found:
            return None
        rows = np.array([row[0] for row in found], np.int64)
        return self._rows(block, at[rows], begins[rows], ends[rows], found)

    def _found(self, data: npt.NDArray[np.uint8], begins: Integers, ends: Integers) -> list[_Row]:
        """Return the requests of the lines that can be read."""
        room = self._room
        if room.size < len(data):
            # Blocks differ a little in size: each that is the longest so far must not get memory anew.
            room = self._room = _Room(len(data) * 5 // 4, len(self._mark) + 2)
        places = np.empty((len(begins), PLACES), np.int64)
        words = data[: len(data) // 8 * 8].view(np.uint64)
        count = take_apart(
            data,
            words,
            begins,
            ends,
            self._names,
            self._members,
            self._mark_bytes,
            room.left,
            room.apart,
            room.texts,
            room.bounds,
            places,
        )
        _leave_cut(room.held, room.bounds[:count], places)
        bounds = room.bounds[:count].tolist()
        left, apart, contents = room.left.data, room.apart.data, room.texts.data
        found: list[_Row] = []
        # All that is done for each line is here, and in the reader's `told`.
        loads, told, window, seen = orjson.loads, self._outline.told, self._window, self._seen
        columns = places[:, [LEFT, LEFT_END, APART, APART_END, TEXT, TEXT_END]].tolist()
        for line, (start, end, own, own_end, text, text_end) in enumerate(columns):
            if start < 0 or own == own_end:
                continue
            decides = bytes(left[start:end])
            try:
                mine = bytes(apart[own:own_end])
                known = seen[decides] if decides in seen else self._known(decides, mine)
                if known is None or known.texts > text_end - text:
                    continue
                name, time, tokens, latency = told(loads(mine + b"}"))
            except (QuarantineError, TypeError, ValueError):
                continue
            if not name or (window is not None and time is not None and not window[0] <= time < window[1]):
                continue
            message: list[bytes | memoryview] = [known.first]
            for number, piece in known.rest:
                begin, close = bounds[text + number]
                message += (contents[begin:close], piece)
            found.append((line, name, time, tokens, latency, known.frame, b"".join(message)))
        return found

    def _known(self, decides: bytes, own: bytes) -> _Known | None:
        """Return what records of these bytes come to; raise what parser and reader do."""
        record = orjson.loads(decides + (b"," if decides else b"{") + own[1:] + b"}")
        value = self._outline.key(record)
        known = None
        if value is not None:
            key = orjson.dumps(value)
            if len(key) > _LONGEST_KEY:
                return None
            if key not in self._kinds:
                return self._remember(key, record)
            known = self._kinds[key]
        if len(decides) <= _LONGEST_KEY:
            if len(self._seen) >= _MOST_KINDS:
                self._seen.clear()
            self._seen[decides] = known
        return known

    def _remember(self, key: bytes, record: Mapping[str, Any]) -> _Known | None:
        if ROUNDED.search(key):
            return None
        if len(self._kinds) + len(self._once) >= _MOST_KINDS:
            self._kinds.clear()
            self._once.clear()
        if key not in self._once:
            # One that comes once may never come again.
            self._once.add(key)
            return None
        self._once.remove(key)
        learnt = self._learn(record, self._outline.told(record), self._mark)
        known = None
        if learnt is not None:
            first, *parts = self._stand_in.split(learnt.messages.encode())
            numbers = list(map(int, parts[::2]))
            rest = tuple(zip(numbers, parts[1::2], strict=True))
            known = _Known(learnt.frame, first, rest, max(numbers, default=-1) + 1)
        self._kinds[key] = known
        return known

    def _rows(
        self,
        block: Block,
        at: Integers,
        begins: Integers,
        ends: Integers,
        found: list[_Row],
    ) -> QuickRows:
        count = len(at)
        _, names, times, tokens, latencies, framed, messages = map(list, zip(*found, strict=True))
        frames = list({id(frame): frame for frame in framed}.values())
        place_of = {id(frame): place for place, frame in enumerate(frames)}
        frame_of = np.array([place_of[id(frame)] for frame in framed], np.int64)
        sha256 = hashlib.sha256
        answers, bodies = digests(messages, frames, frame_of)
        start, dumps = self._id_start, orjson.dumps
        ids = b"".join([sha256(b"".join((start, dumps(name), b"]]"))).digest() for name in names])
        texts = [name.encode() for name in names]
        return QuickRows(
            block,
            block.first + at,
            begins,
            ends,
            frame_of,
            frames,
            np.frombuffer(bytearray(ids), np.uint8).reshape(count, -1),
            answers,
            np.frombuffer(b"".join(texts), np.uint8),
            ends_of(np.array(list(map(len, texts)), np.int64)),
            np.frombuffer(b"".join(messages), np.uint8),
            ends_of(np.array(list(map(len, messages)), np.int64)),
            bodies,
            own=dict(zip(PER_REQUEST, (times, tokens, latencies), strict=True)),
        )


class _Room:
    """Memory for what is left of the lines of a block, and for their texts.

    It is used again and again: memory that is new costs more than what is done with it.
    """

    def __init__(self, size: int, stand_in: int) -> None:
        self.size = size
        most = size // SHORTEST_MEMBER + 1
        self.left = np.empty(size + most * stand_in, np.uint8)
        self.apart = np.empty(size, np.uint8)
        # It has a quick `find`.
        self.held = bytearray(size + 64)
        self.texts = np.frombuffer(self.held, np.uint8)
        self.bounds = np.empty((most, 2), np.int64)


def _leave_cut(held: bytearray, bounds: Integers, places: Integers) -> None:
    """Leave lines alone that have a text which LiteLLM has cut."""
    end = int(bounds[-1, 1]) if len(bounds) else 0
    at = held.find(_CUT, 0, end)
    while at >= 0:
        text = np.searchsorted(bounds[:, 0], at, side="right") - 1
        places[np.searchsorted(places[:, TEXT_END], text, side="right"), LEFT] = -1
        at = held.find(_CUT, at + 1, end)
