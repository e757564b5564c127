"""The one place that decides how numba compiles the scheduler, the ledgers and the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` to machine code, cached on disk; its signature stays visible to type checkers.

    Set ``NUMBA_DISABLE_JIT=1`` to run the plain Python body, for example under a debugger.
    """
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))
