"""What records of an object became, before it is known which of them repeat earlier ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tasks.base.errors import bounded
from tasks.base.schema import SCHEMAS

if TYPE_CHECKING:
    import numpy.typing as npt

    from tasks.base.errors import RequestError
    from tasks.extract.parse.quick_lines import QuickRows
    from tasks.extract.text.lines import RawLine

_MOST_REASONS: Final = 100
_REASON_CHARACTERS: Final = 100
"""Reasons may name what a record says of itself, which can be anything."""
CONFLICT: Final = -1
"""Instead of an ordinal: the name was first seen with another body."""


@dataclass(slots=True)
class Counts:
    """What became of records.

    Attributes
    ----------
    outside
        Made outside of the window.
    shapes
        Of the requests: those of which only lengths are known.
    unread
        Of the errors: those of an image that could not be had this time.
    reasons
        Of those filtered: by what they are instead of requests that were asked for.
    images
        Digests of the images of the requests.
    """

    blank: int = 0
    filtered: int = 0
    quarantined: int = 0
    requests: int = 0
    errors: int = 0
    outside: int = 0
    shapes: int = 0
    unread: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    images: set[str] = field(default_factory=set)

    def filter(self, reason: str) -> None:
        """Count a record as filtered."""
        self.filtered += 1
        short = bounded(reason, _REASON_CHARACTERS)
        known = short in self.reasons or len(self.reasons) < _MOST_REASONS
        self.reasons[short if known else "other"] += 1


COLUMNS: Final = tuple(SCHEMAS["requests"].names)
"""Order of the values of a draft's row."""


@dataclass(slots=True)
class Drafts:
    """What consecutive records became, requests as lists with an entry for each.

    Attributes
    ----------
    quick
        Requests that were read the quick way; they are in none of the lists.
    rows
        Values in the order of `COLUMNS`, right if no earlier request of the object has the same name.
    lines
        Where they came from.
    errors
        Why a request cannot be answered; None if it can.
    names, bodies
        16 bytes each, see `RepeatCounter.resolve`.
    quarantine
        Rows of the table quarantine.
    """

    rows: list[list[Any]] = field(default_factory=list)
    lines: list[RawLine] = field(default_factory=list)
    errors: list[RequestError | None] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    quick: QuickRows | None = None

    def digests(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return what `RepeatCounter.resolve` takes, in the order of the lines."""
        names, bodies = (
            np.frombuffer(b"".join(parts), np.uint64).reshape(-1, 2) for parts in (self.names, self.bodies)
        )
        if self.quick is None:
            return names, bodies
        order = self.order()
        own = np.ascontiguousarray(self.quick.ids[:, :16]).view(np.uint64)
        return np.concatenate((names, own))[order], np.concatenate((bodies, self.quick.bodies))[order]

    def order(self) -> npt.NDArray[np.int64]:
        """Return the order of the lines: of the entries of the lists first, then of the quick rows."""
        numbers = np.array([line.number for line in self.lines], np.int64)
        if self.quick is not None:
            numbers = np.concatenate((numbers, self.quick.numbers))
        return np.argsort(numbers, kind="stable")

    def row(self, index: int) -> dict[str, Any]:
        """Return a request's row by column."""
        return dict(zip(COLUMNS, self.rows[index], strict=True))
