"""Names the code that figures depend on, so that kept figures are of this code."""

from __future__ import annotations

import hashlib

from tests.benchmarks.lib.places import ROOT
from tests.support.imports import reached

FOLDERS = ("engine", "tasks", "tests/benchmarks")
NO_PART_OF_A_SIMULATION = ("engine/kernels", "engine/models", "engine/runtime/cpu", "engine/runtime/sample")
"""What a real run computes with; the simulator calls none of it."""


def dependencies(start: str, but: tuple[str, ...] = ()) -> list[str]:
    """Return the files that a simulation in file `start` depends on, as paths from the project's root.

    Parameters
    ----------
    start
        Path of the file, from the root.
    but
        Beginnings of further paths that its figures do not depend on.
    """
    return reached(ROOT, [start], *FOLDERS, but=NO_PART_OF_A_SIMULATION + but)


def code_digest(start: str, but: tuple[str, ...] = ()) -> str:
    """Return 16 hex digits over the names and bytes of `dependencies`."""
    found = hashlib.sha256()
    for file in dependencies(start, but):
        found.update(file.encode() + b"\0" + (ROOT / file).read_bytes() + b"\0")
    return found.hexdigest()[:16]
