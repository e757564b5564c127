"""Who is a repeat of whom within an object: two short digests for each request, in flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from engine.arrays import frozen
from engine.jit import entry

if TYPE_CHECKING:
    import numpy.typing as npt

    from engine.arrays import Int32, Int64, UInt32, UInt64

T = TypeVar("T", bound=np.generic)
_SHARES: Final = 16
_START: Final = 64
_FULL: Final = 0.7
_GROWTH: Final = 1.25


class RepeatCounter:
    """Requests of one object by their names, in the order in which they come.

    Notes
    -----
    At most 48 bytes for each distinct name: 36 for digests and count, 4 in an index that is 35 to 70 %
    full. They lie in shares that grow one after the other, so that little is held twice while one grows.
    """

    def __init__(self) -> None:
        self._shares = [_Share() for _ in range(_SHARES)]

    def resolve(self, names: UInt64, bodies: UInt64) -> Int64:
        """Count, for each of the next requests, those before it of the same name.

        Parameters
        ----------
        names : uint64 [n, 2]
            Half of a digest of the request's `custom_id`, or of its answer key where it has none.
        bodies : uint64 [n, 2]
            Half of a digest of its body; zeros where the name is the answer key.

        Returns
        -------
        int64 [n]
            How many earlier requests had the same name and body; `tasks.extract.parse.drafts.CONFLICT` (-1)
            for a name that was first seen with another body.
        """
        names, bodies = frozen(names), frozen(bodies)
        ordinals = np.empty(len(names), np.int64)
        share_of = names[:, 1] % np.uint64(_SHARES)
        for share in np.unique(share_of).tolist():
            self._shares[share].resolve(names, bodies, np.flatnonzero(share_of == share), ordinals)
        return ordinals


class _Share:
    """Names in the order in which they came first, and an index of them by open addressing."""

    def __init__(self) -> None:
        self._used = 0
        self._names, self._bodies = np.empty((_START, 2), np.uint64), np.empty((_START, 2), np.uint64)
        self._counts = np.empty(_START, np.uint32)
        self._index = np.full(2 * _START, -1, np.int32)

    def resolve(self, names: UInt64, bodies: UInt64, rows: Int64, ordinals: Int64) -> None:
        """Set the ordinals of some rows."""
        most = self._used + len(rows)
        if most > len(self._names):
            size = max(most, int(_GROWTH * len(self._names)))
            self._names, self._bodies = _longer(self._names, size), _longer(self._bodies, size)
            self._counts = _longer(self._counts, size)
        while most > _FULL * len(self._index):
            self._index = np.full(2 * len(self._index), -1, np.int32)
            _fill(self._index, self._names, self._used)
        self._used = _resolve(
            self._index, self._names, self._bodies, self._counts, self._used, names, bodies, rows, ordinals
        )


def _longer(values: npt.NDArray[T], size: int) -> npt.NDArray[T]:
    longer = np.empty((size, *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer


@entry(
    in_place=True,
    dims={"own_names": 2, "own_bodies": 2, "names": 2, "bodies": 2},
    frozen=("names", "bodies"),
)
def _resolve(
    index: Int32,
    own_names: UInt64,
    own_bodies: UInt64,
    counts: UInt32,
    used: int,
    names: UInt64,
    bodies: UInt64,
    rows: Int64,
    ordinals: Int64,
) -> int:
    """Look names up, and add the new ones; return how many there are."""
    mask = np.uint64(index.shape[0] - 1)
    for row in rows:
        place = names[row, 0] & mask
        found = index[place]
        while found >= 0 and (own_names[found, 0] != names[row, 0] or own_names[found, 1] != names[row, 1]):
            place = (place + np.uint64(1)) & mask
            found = index[place]
        if found < 0:
            index[place] = used
            own_names[used, 0], own_names[used, 1] = names[row, 0], names[row, 1]
            own_bodies[used, 0], own_bodies[used, 1] = bodies[row, 0], bodies[row, 1]
            counts[used] = 1
            ordinals[row] = 0
            used += 1
        elif own_bodies[found, 0] == bodies[row, 0] and own_bodies[found, 1] == bodies[row, 1]:
            ordinals[row] = counts[found]
            counts[found] += np.uint32(1)
        else:
            ordinals[row] = -1
    return used


@entry(in_place=True, dims={"names": 2})
def _fill(index: Int32, names: UInt64, used: int) -> int:
    """Put the names into an empty index."""
    mask = np.uint64(index.shape[0] - 1)
    for row in range(used):
        place = names[row, 0] & mask
        while index[place] >= 0:
            place = (place + np.uint64(1)) & mask
        index[place] = row
    return used
