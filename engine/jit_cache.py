"""Where compiled functions are kept: on disk, under a digest of all sources they could be made of.

Where: `engine.cache_places`. Nothing of the path, the owner or the times of the sources counts, only what is
in them, numba's version and the processor. An image for many processors is built with
``NUMBA_CPU_NAME=generic``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from engine.cache_places import cache_places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGE: Final = Path(__file__).parent
_MARK: Final = re.compile(rb"^from engine\.jit import .*\b(entry|njit|njit_in_place)\b", re.MULTILINE)
"""What a module with compiled functions has; `engine.jit` decides how they are compiled."""
_KEPT: Final = 4
"""Cache folders of earlier sources that are kept, for other checkouts and branches."""


def compiled_modules(package: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and sources of a package's modules that have compiled functions, in one order."""
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        if _MARK.search(source) or path == _PACKAGE / "jit.py":
            yield ".".join((name, *path.relative_to(package).with_suffix("").parts)), source


@cache
def sources_digest() -> str:
    """Return a digest of all modules of the engine with compiled functions.

    numba's own cache looks at the file of a function only: after a change in a function that it calls, it
    would go on using the old one, compiled into it.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for name, source in compiled_modules(_PACKAGE, "engine"):
        digest.update(name.encode() + b"\0" + source)
    return digest.hexdigest()[:16]


@cache
def folders() -> tuple[Path, ...]:
    """Return the folders in which compiled functions are looked for, the one that is written to first."""
    own = os.environ.get("NUMBA_CACHE_DIR")
    places = list(cache_places())
    if own:
        places.insert(0, Path(own))
    return tuple(place / f"numba-{sources_digest()}" for place in places)


def make_folder(folder: Path) -> None:
    """Make one of `folders`; the first time for new sources the oldest of other sources are removed."""
    if not folder.exists() and str(folder.parent) != os.environ.get("NUMBA_CACHE_DIR"):
        with suppress(FileNotFoundError):
            others = sorted(folder.parent.glob("numba-*"), key=lambda path: path.stat().st_mtime)
            for old in others[: max(0, len(others) - _KEPT)]:
                shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


class DiskCache:
    """The forms of one function on disk, in all `folders`; has what numba's dispatcher asks of a cache."""

    def __init__(self, function: Callable[..., object], waiting: Callable[[], None]) -> None:
        """Look for `function`; call `waiting` before it has to be compiled."""
        self._function, self._waiting = function, waiting
        self._enabled = True

    @cached_property
    def _places(self) -> list[FunctionCache]:
        # Made when first asked: a process uses a few of all functions.
        return [_cache_in(folder, self._function) for folder in folders()]

    @property
    def cache_path(self) -> str:
        """The folder that is written to first."""
        return str(folders()[0])

    def load_overload(self, signature: object, target: object) -> object:
        """Return the form of a function for a signature, None if it must be compiled."""
        if self._enabled:
            for place in self._places:
                found = place.load_overload(signature, target)
                if found is not None:
                    return found
        self._waiting()
        return None

    def save_overload(self, signature: object, compiled: object) -> None:
        """Keep a compiled form in the first folder that can be written; without one it is lost."""
        if not self._enabled:
            return
        for folder, place in zip(folders(), self._places, strict=True):
            # A folder that is read-only or full costs the time of compiling again, not the night.
            with suppress(OSError):
                make_folder(folder)
                Path(place.cache_path).mkdir(exist_ok=True)
                place.save_overload(signature, compiled)
                return

    def enable(self) -> None:
        """Read and write from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Neither read nor write from now on."""
        self._enabled = False

    def flush(self) -> None:
        """Forget all forms that are kept in the folder that is written to."""
        self._places[0].flush()


def _stamp(file: Path) -> str:
    """Return a digest of the sources that a function of a file may be made of.

    The engine's are all in the name of the folder; outside of it compiled functions call those of their own
    room alone.
    """
    digest = hashlib.sha256(file.read_bytes())
    if not file.is_relative_to(_PACKAGE):
        for path in sorted(file.parent.glob("*.py")):
            source = path.read_bytes()
            if path != file and _MARK.search(source):
                digest.update(source)
    return digest.hexdigest()


def _cache_in(folder: Path, function: Callable[..., object]) -> FunctionCache:
    """Return numba's cache of a function, in a folder of ours."""
    code = function.__code__
    stamp = _stamp(Path(code.co_filename))
    place = str(folder / function.__module__)

    class Locator(_CacheLocator):
        def get_cache_path(self) -> str:
            return place

        def get_source_stamp(self) -> str:
            return stamp

        def get_disambiguator(self) -> str:
            return str(code.co_firstlineno)

        @classmethod
        def from_function(cls, _function: object, _file: object) -> Locator:
            return cls()

    class Implementation(CompileResultCacheImpl):
        _locator_classes = [Locator]  # type: ignore[list-item]  # noqa: RUF012 - as numba declares it

    class Cache(FunctionCache):
        _impl_class = Implementation

    return Cache(function)
