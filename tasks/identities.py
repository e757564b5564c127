"""Who is a repeat of whom within an object: two short digests for each request, in a table of flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from engine.jit import njit

if TYPE_CHECKING:
    import numpy.typing as npt

_START: Final = 1024
_FULL: Final = 0.7


class Identities:
    """Requests of one object by their names, in the order in which they come.

    Notes
    -----
    About 60 bytes for each request.
    """

    def __init__(self) -> None:
        self._count = 0
        self._table = _empty(_START)

    def resolve(self, names: npt.NDArray[np.uint64], bodies: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
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
            How many earlier requests had the same name and body; `tasks.object_parser.CONFLICT` (-1) for a
            name that was first seen with another body.
        """
        while self._count + len(names) > _FULL * self._table.shape[0]:
            larger = _empty(2 * self._table.shape[0])
            _move(self._table, larger)
            self._table = larger
        ordinals = np.empty(len(names), np.int64)
        self._count += int(_resolve(self._table, names, bodies, ordinals))
        return ordinals


def _empty(size: int) -> npt.NDArray[np.uint64]:
    # Columns: name (2), body (2), requests so far; 0 requests is a free row.
    return np.zeros((size, 5), np.uint64)


@njit
def _resolve(
    table: npt.NDArray[np.uint64],
    names: npt.NDArray[np.uint64],
    bodies: npt.NDArray[np.uint64],
    ordinals: npt.NDArray[np.int64],
) -> int:
    mask = np.uint64(table.shape[0] - 1)
    added = 0
    for i in range(names.shape[0]):
        place = names[i, 0] & mask
        while table[place, 4] != 0 and (table[place, 0] != names[i, 0] or table[place, 1] != names[i, 1]):
            place = (place + np.uint64(1)) & mask
        if table[place, 4] == 0:
            table[place, 0], table[place, 1] = names[i, 0], names[i, 1]
            table[place, 2], table[place, 3] = bodies[i, 0], bodies[i, 1]
            table[place, 4] = 1
            ordinals[i] = 0
            added += 1
        elif table[place, 2] == bodies[i, 0] and table[place, 3] == bodies[i, 1]:
            ordinals[i] = np.int64(table[place, 4])
            table[place, 4] += np.uint64(1)
        else:
            ordinals[i] = -1
    return added


@njit
def _move(table: npt.NDArray[np.uint64], larger: npt.NDArray[np.uint64]) -> int:
    mask = np.uint64(larger.shape[0] - 1)
    for i in range(table.shape[0]):
        if table[i, 4] != 0:
            place = table[i, 0] & mask
            while larger[place, 4] != 0:
                place = (place + np.uint64(1)) & mask
            larger[place] = table[i]
    return 0
