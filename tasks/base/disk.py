"""Whether a disk has room for another file."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import os

LEAST_BYTES: Final = 1 << 20
"""A disk with less than this free is full: what failed on it has failed of that."""


def is_full(folder: str | os.PathLike[str]) -> bool:
    """Tell whether the disk of a folder has no room left."""
    return shutil.disk_usage(folder).free < LEAST_BYTES
