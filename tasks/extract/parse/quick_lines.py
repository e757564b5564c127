"""The quick way for the commonest lines: OpenAI Batch chats that differ in name and messages only.

A block of lines is scanned at once (`tasks.extract.parse.quick_scan`); the rest of a line, its *frame*, is
worked out by the general way once and remembered. Lines whose frame is not known, or that are in any other
way unusual, are left to the general way, which gives the same rows (a test holds the two together).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from binascii import hexlify
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from engine.arrays import frozen
from tasks.extract.parse.quick_scan import HEAD, NAME, NAME_END, OUT, OUT_END, PLACES, TAIL, gather, scan
from tasks.requests.prompts import CONTENT_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    import numpy.typing as npt

    from tasks.extract.text.lines import Block, RawLine

    Integers = npt.NDArray[np.int64]

FEWEST_LINES: Final = 8
"""Fewer lines are not worth it."""
_SHORTEST: Final = len('{"custom_id":"x","url":"","body":{"messages":[{"role":"user","content":""}]}}')
_MOST_FRAMES: Final = 1024
_MOST_HEADS: Final = 32
_TRIES: Final = 4
"""How many new heads are looked for in a block."""
# The first quote of a key is never an escaped one: within texts the last would be, too.
_NAME_AT: Final = re.compile(rb'"custom_id"\s*:\s*("[^"\\]+")')
_MESSAGES_AT: Final = re.compile(rb'"messages"\s*:\s*(?=\[)')
_JSON: Final = json.JSONDecoder()
_TAG: Final = CONTENT_TAG["messages_json"]
_DIGEST: Final = 32


@dataclass(frozen=True, slots=True)
class Frame:
    """What requests with one frame have in common.

    Attributes
    ----------
    values
        Their columns, by name.
    answer_settings
        What enters the answer key beside the messages, see `tasks.requests.bodies.Settled`.
    digest
        8 bytes that tell settings apart.
    """

    values: dict[str, Any]
    answer_settings: str
    digest: bytes


_NEW: Final = Frame({}, "", b"")


@dataclass(slots=True)
class QuickRows:
    """Requests of a block by column, in the order of their lines.

    Attributes
    ----------
    block
        Where they come from.
    numbers : int64 [n]
        Numbers of their lines.
    begins, ends : int64 [n]
        Where the lines are in the block.
    frame_of : int64 [n]
        Places in `frames`.
    ids, answers : uint8 [n, 32]
        `request_id` and `answer_key`.
    names, name_ends : uint8, int64 [n + 1]
        Every `custom_id` in UTF-8, one after the other.
    messages, message_ends : uint8, int64 [n + 1]
        Every `messages_json`, likewise.
    bodies : uint64 [n, 2]
        See `tasks.extract.parse.repeats.RepeatCounter.resolve`.
    duplicate_of : dict
        Row -> request_id of the first line with its name.
    own : dict
        Columns of which the rows of one frame have different values, by name.
    """

    block: Block
    numbers: Integers
    begins: Integers
    ends: Integers
    frame_of: Integers
    frames: list[Frame]
    ids: npt.NDArray[np.uint8]
    answers: npt.NDArray[np.uint8]
    names: npt.NDArray[np.uint8]
    name_ends: Integers
    messages: npt.NDArray[np.uint8]
    message_ends: Integers
    bodies: npt.NDArray[np.uint64]
    duplicate_of: dict[int, str] = field(default_factory=dict)
    own: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, row: int) -> RawLine:
        """Return the line of a row."""
        begin, end = int(self.begins[row]), int(self.ends[row])
        return self.block.line(int(self.numbers[row]), begin, end, end - begin)

    def name(self, row: int) -> str:
        """Return a row's `custom_id`."""
        return bytes(self.names[self.name_ends[row] : self.name_ends[row + 1]]).decode()

    def id_of(self, row: int) -> str:
        """Return a row's `request_id`."""
        return bytes(self.ids[row]).hex()

    def without(self, rows: set[int]) -> QuickRows:
        """Return the other rows."""
        kept = np.array([row for row in range(len(self)) if row not in rows], np.int64)
        place = {int(row): new for new, row in enumerate(kept)}
        names, name_ends = _picked(self.names, self.name_ends, kept)
        messages, message_ends = _picked(self.messages, self.message_ends, kept)
        return QuickRows(
            self.block,
            self.numbers[kept],
            self.begins[kept],
            self.ends[kept],
            self.frame_of[kept],
            self.frames,
            self.ids[kept],
            self.answers[kept],
            names,
            name_ends,
            messages,
            message_ends,
            self.bodies[kept],
            {place[row]: first for row, first in self.duplicate_of.items() if row not in rows},
            {name: [values[row] for row in kept] for name, values in self.own.items()},
        )


@dataclass(order=True, slots=True)
class _Head:
    """A line up to the end of its second hole, without the holes; and the frames that it begins.

    A tail maps to None if its lines are for the general way.
    """

    first: bytes
    second: bytes
    name_first: bool
    frames: dict[bytes, Frame | None] = field(default_factory=dict, compare=False)
    once: set[bytes] = field(default_factory=set, compare=False)


class QuickLines:
    """Reads blocks of one object as far as it can.

    Parameters
    ----------
    learn : callable
        Takes a line whose name is a marker, whose only message is the marker from a user, and the marker;
        returns what is common to the requests of this frame, None if they are for the general way.
    names : (str, date, str)
        Job, date and object, which enter the ids of requests.
    """

    def __init__(self, learn: Callable[[bytes, str], Frame | None], names: tuple[str, date, str]) -> None:
        self._learn = learn
        job, run_date, source_uri = names
        place = orjson.dumps(["request", job, run_date.isoformat(), source_uri])
        self._id_start = place[:-1] + b',["custom_id","'
        self._heads: list[_Head] = []
        # Nobody who writes a log can know it.
        self._marker = secrets.token_hex(16)

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
        at = np.flatnonzero((lengths >= _SHORTEST) & (lengths <= max_line_bytes))
        if len(at) < FEWEST_LINES:
            return None
        data = aligned(block.data)
        begins, ends = begins[at], ends[at]
        out = np.empty(len(data) + 64, np.uint8)
        places = self._places(data, begins, ends, out)
        frame_of, frames = self._frames(block.data, ends, places)
        rows = np.flatnonzero(frame_of >= 0)
        if not len(rows):
            return None
        if len(rows) < len(at):
            at, begins, ends, places, frame_of = (part[rows] for part in (at, begins, ends, places, frame_of))
        return self._rows(block, data, at, begins, ends, out, places, frame_of, frames)

    def _places(
        self, data: npt.NDArray[np.uint8], begins: Integers, ends: Integers, out: npt.NDArray[np.uint8]
    ) -> Integers:
        """Take lines apart; if few have a known head, look for others."""
        places = np.full((len(begins), PLACES), -1, np.int64)
        words = data[: len(data) // 8 * 8].view(np.uint64)
        for attempt in range(_TRIES):
            # Before the scan, never after it: `places` has the numbers of the heads.
            if (attempt or not self._heads) and not self._add_head(data, begins, ends, places):
                break
            whole, pieces = _packed(self._heads)
            found = scan(data, words, begins, ends, whole, pieces, out, places)
            if found > len(begins) // 2 or len(self._heads) >= _MOST_HEADS:
                break
        return places

    def _add_head(
        self, data: npt.NDArray[np.uint8], begins: Integers, ends: Integers, places: Integers
    ) -> bool:
        """Add the head of the first line that has none of the known ones; False if that is no new one."""
        line = int(np.argmin(places[:, HEAD]))
        head = _head_of(data[begins[line] : ends[line]].tobytes())
        if head is None or head in self._heads:
            return False
        # The same beginnings together, as `scan` wants them.
        self._heads = sorted([*self._heads, head])
        return True

    def _frames(
        self, text: bytes | memoryview, ends: Integers, places: Integers
    ) -> tuple[Integers, list[Frame]]:
        """Return the frame of each line, -1 for none, and the frames."""
        frame_of = np.full(len(ends), -1, np.int64)
        frames: list[Frame] = []
        number_of: dict[int, int] = {}
        found = np.flatnonzero(places[:, HEAD] >= 0)
        picked = zip(
            found.tolist(),
            places[found, HEAD].tolist(),
            places[found, TAIL].tolist(),
            ends[found].tolist(),
            strict=True,
        )
        for line, number, begin, end in picked:
            head, tail = self._heads[number], bytes(text[begin:end])
            frame = head.frames.get(tail, _NEW)
            if frame is _NEW:
                frame = self._remember(head, tail)
            if frame is not None:
                place = number_of.setdefault(id(frame), len(frames))
                if place == len(frames):
                    frames.append(frame)
                frame_of[line] = place
        return frame_of, frames

    def _remember(self, head: _Head, tail: bytes) -> Frame | None:
        if len(head.frames) + len(head.once) >= _MOST_FRAMES:
            head.frames.clear()
            head.once.clear()
        if tail not in head.once:
            # One that comes once may never come again.
            head.once.add(tail)
            return None
        head.once.remove(tail)
        samples = [orjson.dumps(self._marker), orjson.dumps([{"role": "user", "content": self._marker}])]
        if not head.name_first:
            samples.reverse()
        sample = b"".join((head.first, samples[0], head.second, samples[1], tail))
        found = head.frames[tail] = self._learn(sample, self._marker)
        return found

    def _rows(
        self,
        block: Block,
        data: npt.NDArray[np.uint8],
        at: Integers,
        begins: Integers,
        ends: Integers,
        out: npt.NDArray[np.uint8],
        places: Integers,
        frame_of: Integers,
        frames: list[Frame],
    ) -> QuickRows:
        count = len(at)
        name_at, name_end = places[:, NAME], places[:, NAME_END]
        names = np.empty(int((name_end - name_at - 2).sum()), np.uint8)
        gather(data, name_at + 1, name_end - 1, names)
        name_ends = ends_of(name_end - name_at - 2)
        sizes = places[:, OUT_END] - places[:, OUT]
        message_ends = ends_of(sizes)
        messages = out
        if message_ends[-1] != places[-1, OUT_END]:
            # Some of what was written belongs to no row.
            messages = np.empty(int(message_ends[-1]), np.uint8)
            gather(frozen(out), places[:, OUT].copy(), places[:, OUT_END].copy(), messages)
        sha256 = hashlib.sha256
        view, bounds = messages.data, message_ends.tolist()
        answers, bodies = digests([view[begin:end] for begin, end in pairwise(bounds)], frames, frame_of)
        view, bounds, start = names.data, name_ends.tolist(), self._id_start
        ids = b"".join(
            [sha256(b"".join((start, view[begin:end], b'"]]'))).digest() for begin, end in pairwise(bounds)]
        )
        return QuickRows(
            block,
            block.first + at,
            begins,
            ends,
            frame_of,
            frames,
            np.frombuffer(bytearray(ids), np.uint8).reshape(count, _DIGEST),
            answers,
            names,
            name_ends,
            messages,
            message_ends,
            bodies,
        )


def _head_of(line: bytes) -> _Head | None:
    """Return the head of a line as it looks; whether it is true shows when its frames are worked out."""
    name, messages = _NAME_AT.search(line), _MESSAGES_AT.search(line)
    if name is None or messages is None:
        return None
    if name.start(1) < messages.end():
        return _Head(line[: name.start(1)], line[name.end() : messages.end()], name_first=True)
    try:
        text = line[messages.end() :].decode()
        close = messages.end() + len(text[: _JSON.raw_decode(text)[1]].encode())
    except (ValueError, RecursionError):
        return None
    return _Head(line[: messages.end()], line[close : name.start(1)], name_first=False)


def _packed(heads: list[_Head]) -> tuple[npt.NDArray[np.uint8], Integers]:
    """Return heads as `scan` takes them."""
    pieces, at = [], 0
    for head in heads:
        first = at + len(head.first)
        pieces.append((head.name_first, at, first, first + len(head.second)))
        at = first + len(head.second)
    whole = b"".join([head.first + head.second for head in heads])
    return frozen(np.frombuffer(whole, np.uint8)), np.array(pieces, np.int64)


def digests(
    messages: Sequence[bytes | memoryview], frames: Sequence[Frame], frame_of: Integers
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Return the digests of chats as the general way makes them (`tasks.base.identity`).

    Parameters
    ----------
    messages
        N of them, each the `messages_json` of a request.
    frames, frame_of
        What requests have in common, and which of these each has, int64 [N].

    Returns
    -------
    uint8 [N, 32], uint64 [N, 2]
        Their answer keys; and the first words of the digests of content and settings, which tell whether two
        lines of one name ask for the same.
    """
    sha256 = hashlib.sha256
    contents = b"".join([sha256(_TAG + message).digest() for message in messages])
    named = hexlify(contents)
    start, tails = b'["answer","chat","', [f'",{f.answer_settings}]'.encode() for f in frames]
    answers = b"".join(
        [
            sha256(b"".join((start, named[64 * row : 64 * row + 64], tails[frame]))).digest()
            for row, frame in enumerate(frame_of.tolist())
        ]
    )
    bodies = np.empty((len(messages), 2), np.uint64)
    bodies[:, 0] = np.frombuffer(contents, np.uint64)[::4]
    bodies[:, 1] = np.frombuffer(b"".join([frame.digest for frame in frames]), np.uint64)[frame_of]
    return np.frombuffer(answers, np.uint8).reshape(len(messages), _DIGEST), bodies


def aligned(text: bytes | memoryview) -> npt.NDArray[np.uint8]:
    """Return the bytes as an array that can be read in words of eight."""
    data = np.frombuffer(text, np.uint8)
    return frozen(data if data.ctypes.data % 8 == 0 else data.copy())


def ends_of(sizes: Integers) -> Integers:
    """Return where pieces of these sizes end, one after the other, with a 0 before."""
    ends = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    return ends


def _picked(
    data: npt.NDArray[np.uint8], ends: Integers, rows: Integers
) -> tuple[npt.NDArray[np.uint8], Integers]:
    picked = ends_of(ends[rows + 1] - ends[rows])
    out = np.empty(int(picked[-1]), np.uint8)
    gather(frozen(data), ends[rows], ends[rows + 1], out)
    return out, picked
