"""Types of compiled functions' arguments, from the annotations that the functions have anyway.

`int`, `float` and `bool` are 64-bit numbers and a truth value; a name of `engine.arrays` is an array with one
dimension, contiguous and writeable; a struct (a named tuple with `struct`) is a tuple of what its fields say.
Where an array has more dimensions, or is read-only, its function or struct says so beside its name.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, TypeVar, cast

from numba.core import types

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

C = TypeVar("C", bound=type)

_NUMBERS: Final = {"int": types.int64, "float": types.float64, "bool": types.boolean}
_ARRAYS: Final = {
    "Bool": types.boolean,
    "Int8": types.int8,
    "Int32": types.int32,
    "Int64": types.int64,
    "UInt8": types.uint8,
    "UInt32": types.uint32,
    "UInt64": types.uint64,
    "Float32": types.float32,
    "Float64": types.float64,
}
_structs: Final[dict[str, tuple[type, Mapping[str, int], Sequence[str]]]] = {}


def struct(*, dims: Mapping[str, int] | None = None, frozen: Sequence[str] = ()) -> Callable[[C], C]:
    """Let a named tuple be an argument of entries; `dims` and `frozen` as `engine.jit.entry` has them.

    Raises
    ------
    ValueError
        If another struct has the name.
    """

    def registered(cls: C) -> C:
        other = _structs.get(cls.__name__)
        if other is not None and other[0].__module__ != cls.__module__:
            raise ValueError(f"{cls.__name__}: a struct in {other[0].__module__} has this name")
        _structs[cls.__name__] = cls, dict(dims or {}), tuple(frozen)
        return cls

    return registered


def argument_types(
    function: Callable[..., object], dims: Mapping[str, int], frozen: Sequence[str]
) -> tuple[types.Type, ...]:
    """Return the types of a function's arguments.

    Raises
    ------
    TypeError
        If an annotation is missing or unknown, or a name in `dims` or `frozen` is no argument.
    """
    # The annotations are strings: what they name is imported for type checkers alone.
    notes = {name: note for name, note in inspect.get_annotations(function).items() if name != "return"}
    return tuple(_types(f"{function.__module__}.{function.__qualname__}", notes, dims, frozen))


def _types(
    owner: str, notes: Mapping[str, object], dims: Mapping[str, int], frozen: Sequence[str]
) -> list[types.Type]:
    for name in (*dims, *frozen):
        if name not in notes:
            raise TypeError(f"{owner}: {name} is declared and is not there")
    return [
        _type(
            f"{owner}: {name}", getattr(note, "__forward_arg__", str(note)), dims.get(name, 1), name in frozen
        )
        for name, note in notes.items()
    ]


def _type(owner: str, note: str, dims: int, frozen: bool) -> types.Type:
    if note in _NUMBERS:
        return _NUMBERS[note]
    if note in _ARRAYS:
        return types.Array(_ARRAYS[note], dims, "C", readonly=frozen)
    if note in _structs:
        cls, inner, constant = _structs[note]
        fields = _types(note, inspect.get_annotations(cls), inner, constant)
        return cast("types.Type", types.BaseTuple.from_types(fields, cls))
    raise TypeError(f"{owner} is a {note}, which has no compiled form; name it as engine.arrays does")
