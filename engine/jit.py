"""The one place that decides how numba compiles the scheduler, the ledgers, the planner and the log scanner.

There are two kinds of compiled functions. An *entry* (`entry`) is called from Python: its argument types are
declared, it is kept on disk (`engine.jit_cache`) and `engine.warm` compiles it ahead of time. Every other one
(`njit`, `njit_in_place`) is a part of entries: it is compiled into them, with no wrapper for Python and no
file of its own.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import numba
from numba.core import types
from numba.core.registry import CPUDispatcher

from engine.jit_cache import DiskCache
from engine.jit_types import argument_types

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

P = ParamSpec("P")
R = TypeVar("R")

ENTRIES: Final[dict[str, Entry]] = {}
"""All entries of the modules that are loaded, by module and name."""
# `_nrt` is numba's own name for its reference-counting run time; its type hints leave it out.
_COUNTED: Final[dict[str, Any]] = {"nopython": True, "nogil": True}
_IN_PLACE: Final[dict[str, Any]] = {**_COUNTED, "_nrt": False}
_PART: Final[dict[str, Any]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` as a part of entries; its signature stays visible to type checkers.

    A call from Python, as in a test, works, and compiles the function once more.
    Set ``NUMBA_DISABLE_JIT=1`` to run the plain Python body, for example under a debugger.
    """
    return _compiled(Part, function, _COUNTED)


def njit_in_place(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a part of entries that only reads and writes the arrays it is given, and returns numbers.

    As `njit`, without counting references: a call with a few structs of arrays otherwise counts each of their
    arrays up and down, which took four fifths of a simulation. Such a function allocates nothing (numba
    refuses to compile it then), and calls only such functions.
    """
    return _compiled(Part, function, _IN_PLACE)


def entry(
    *, in_place: bool = False, dims: Mapping[str, int] | None = None, frozen: Sequence[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function that Python calls.

    Its annotations are its types (`engine.jit_types`): Python must pass exactly these, or a second form is
    compiled while somebody waits.

    Parameters
    ----------
    in_place
        As `njit_in_place` says.
    dims
        Dimensions of the arguments that are arrays of more than one.
    frozen
        Arguments that are read-only arrays (`engine.arrays.frozen`).
    """

    def compiled(function: Callable[P, R]) -> Callable[P, R]:
        found = _compiled(Entry, function, _IN_PLACE if in_place else _COUNTED)
        if isinstance(found, Entry):
            found.declared = dict(dims or {}), tuple(frozen)
            ENTRIES[f"{function.__module__}.{function.__qualname__}"] = found
        return found

    return compiled


def _compiled(kind: type[_Function], function: Callable[P, R], options: dict[str, Any]) -> Callable[P, R]:
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    return cast("Callable[P, R]", kind(function, options))


def _plain(type_: types.Type) -> types.Type:
    """Return the type that stands for all numbers of its kind: a constant, a 32-bit index, are an int64."""
    type_ = types.unliteral(type_)
    if isinstance(type_, types.Integer) and getattr(type_, "signed", False):
        return types.int64
    return type_


class _Function(CPUDispatcher):
    """A compiled function, with one form for all integers that its callers pass."""

    def __init__(self, function: Callable[..., object], options: dict[str, Any]) -> None:
        super().__init__(function, targetoptions=options)

    def get_call_template(
        self, args: Sequence[Any], kws: Sequence[tuple[str, Any]] | dict[str, Any]
    ) -> tuple[Any, ...]:
        """Return how a compiled caller calls it, as numba asks."""
        named = {name: _plain(one) for name, one in dict(kws).items()}
        return tuple(super().get_call_template(tuple(_plain(one) for one in args), named))


class Entry(_Function):
    """A compiled function that Python calls.

    Attributes
    ----------
    declared
        What `entry` was given of the types: dimensions, and names of read-only arrays.
    """

    def __init__(self, function: Callable[..., object], options: dict[str, Any]) -> None:
        super().__init__(function, {**options, "no_cfunc_wrapper": True})
        self.declared: tuple[dict[str, int], tuple[str, ...]] = {}, ()
        self._cache = DiskCache(function, _tell)

    @property
    def types(self) -> tuple[types.Type, ...]:
        """The declared types of the arguments."""
        dims, frozen = self.declared
        return argument_types(self.py_func, dims, frozen)

    def make_ready(self) -> bool:
        """Load the function from disk, or compile it and keep it; return whether it had to be compiled."""
        before = sum(self.stats.cache_misses.values())
        self.compile(self.types)
        return sum(self.stats.cache_misses.values()) > before


class Part(_Function):
    """A compiled function that other compiled functions call."""

    def __init__(self, function: Callable[..., object], options: dict[str, Any]) -> None:
        super().__init__(function, {**options, **_PART})
        self._options = options
        self._from_python: Entry | None = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it from Python."""
        # Without the wrapper there is nothing here that Python could call.
        if self._from_python is None:
            self._from_python = Entry(self.py_func, self._options)
        return self._from_python(*args, **kwargs)


COMPILING: Final = (
    "compiling functions, which takes a minute or two once for this version on this machine; "
    "`nightblend warm` does it ahead of time"
)
_told = False


def tell_of_compiling(*, whether: bool) -> None:
    """Say on stderr that somebody waits for the compiler, the first time in this process, or do not."""
    global _told  # noqa: PLW0603 - one per process, like the functions themselves
    _told = not whether


def _tell() -> None:
    if not _told:
        tell_of_compiling(whether=False)
        sys.stderr.write(f"{COMPILING}\n")
        sys.stderr.flush()
