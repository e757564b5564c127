"""What an engine is computing, in a file of its job folder that outlives a death of the engine by any cause.

It is mapped into memory, so telling costs no system call. Who reads it may find the sequences of two steps
mixed if the engine was killed while it wrote; it is a hint at what it died of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

RUNNING_FILE: Final = "running.npy"
"""int32 [max_sequences]: sequences by their number in the job, then -1."""
_NONE: Final = -1


class RunningFile:
    """The file of a job in `folder`, whose engine computes at most `max_sequences` at a time."""

    def __init__(self, folder: Path, max_sequences: int) -> None:
        path = folder / RUNNING_FILE
        # Written first: a mapped page for which a full disk has no room would end the process.
        np.save(path, np.full(max_sequences, _NONE, np.int32))
        self._map = np.lib.format.open_memmap(path, mode="r+")

    def write(self, running: npt.NDArray[np.int32]) -> None:
        """Say which sequences the next step computes."""
        self._map[: len(running)] = running
        self._map[len(running) :] = _NONE


def read_running(folder: Path) -> list[int] | None:
    """Return which sequences an engine was computing when it ended; None if it did not tell."""
    path = folder / RUNNING_FILE
    if not path.exists():
        return None
    found = np.load(path)
    return [int(i) for i in found[found != _NONE]]
