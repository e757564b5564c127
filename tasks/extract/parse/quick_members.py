"""Compiled: which of the members that a reader looks at a name is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.arrays import frozen
from engine.jit import njit_in_place
from tasks.extract.parse.quick_json import equal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.arrays import Int64, UInt8

NAME, NAME_END, OF, CLASS, COLUMNS = range(5)
"""Columns of `members`: where its name is in `names`, row of the member that it is in (-1: of the record
itself), what it is for; how many columns."""
DECIDES, OWN, PART, _BEGINNING = 1, 2, 4, 8
"""What a member is for: it decides on the request; it is the record's own; of it only members that are named
decide; its name is the beginning of names."""


def table_of(decides: Mapping[str, Sequence[str]], own: Sequence[str]) -> tuple[UInt8, Int64]:
    """Return the members that a reader looks at as compiled functions take them.

    Parameters
    ----------
    decides
        Members of a record that decide on its request, and those of their own members that do, if these are
        few. A name that ends in `*` stands for all that begin so.
    own
        Members that hold what requests have of their own.

    Returns
    -------
    uint8, int64 [m, COLUMNS]
        Their names, one after the other, and what they are, the record's own first.
    """
    rows: list[tuple[str, int, int]] = []
    for name in dict.fromkeys((*decides, *own)):
        what = (DECIDES if name in decides else 0) | (OWN if name in own else 0)
        rows.append((name, -1, what | (PART if decides.get(name) else 0)))
    for row, (name, _, what) in enumerate(list(rows)):
        if what & PART:
            rows += [(part, row, DECIDES) for part in decides[name]]
    names, members = b"", []
    for name, of, what in rows:
        is_beginning = name.endswith("*")
        quoted = f'"{name[:-1]}' if is_beginning else f'"{name}"'
        members.append((len(names), len(names) + len(quoted), of, what | is_beginning * _BEGINNING))
        names += quoted.encode()
    return frozen(np.frombuffer(names, np.uint8)), frozen(np.array(members, np.int64))


@njit_in_place
def row_of(text: UInt8, at: int, close: int, names: UInt8, members: Int64, of: int) -> int:
    """Return the row of the member of this name, in the record or in one of its members; -1 for none."""
    size = close - at
    for row in range(members.shape[0]):
        member = members[row]
        length = member[NAME_END] - member[NAME]
        if (
            member[OF] == of
            and (size == length or (size > length and member[CLASS] & _BEGINNING != 0))
            and text[at + 1] == names[member[NAME] + 1]
            and equal(text, at, names, member[NAME], length)
        ):
            return row
    return -1
