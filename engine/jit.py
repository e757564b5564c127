"""The one place that decides how numba compiles the scheduler, the ledgers and the planner."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE: Final = Path(__file__).parent
_KEPT: Final = 4
"""Cache folders of earlier sources that are kept, for other checkouts and branches."""


def _sources_digest() -> str:
    """Return a digest of all modules with compiled functions."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        source = path.read_bytes()
        if b"engine.jit import" in source:
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + source)
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    """Return the folder of compiled code for exactly these sources, with the oldest others removed.

    numba's own cache looks at the file of a function only: after a change in a function that it calls, it
    would go on using the old one, compiled into it.
    """
    above = _PACKAGE / "__pycache__"
    writable = os.access(above if above.exists() else _PACKAGE, os.W_OK)
    if not writable:
        above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightblend"
    folder = above / f"numba-{_sources_digest()}"
    if not folder.exists():
        try:
            others = sorted(above.glob("numba-*"), key=lambda p: p.stat().st_mtime)
        except FileNotFoundError:
            others = []
        for old in others[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


# `_nrt` is numba's own name for its reference-counting run time; its type hints leave it out.
_IN_PLACE: Final[dict[str, Any]] = {"cache": True, "nogil": True, "_nrt": False}

if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_cache_folder())  # type: ignore[attr-defined]


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` to machine code, cached on disk; its signature stays visible to type checkers.

    Set ``NUMBA_DISABLE_JIT=1`` to run the plain Python body, for example under a debugger.
    """
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))


def njit_in_place(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that only reads and writes the arrays it is given, and returns numbers.

    As `njit`, without counting references: a call with a few structs of arrays otherwise counts each of their
    arrays up and down, which took four fifths of a simulation. Such a function allocates nothing (numba
    refuses to compile it then), and calls only such functions.
    """
    return cast("Callable[P, R]", numba.njit(**_IN_PLACE)(function))
