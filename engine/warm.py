"""Compiling ahead of time: every entry of the given modules is made, or found to be on disk already."""

from __future__ import annotations

import hashlib
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numba
from numba.core.event import Event, Listener, install_listener
from numba.core.registry import cpu_target

from engine.jit import ENTRIES, tell_of_compiling
from engine.jit_cache import compiled_modules, folders, make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Warmed:
    """What was done.

    Attributes
    ----------
    functions, compiled
        How many entries there are, and how many of them were not on disk; both 0 where everything was known
        to be there.
    seconds, cpu_seconds
        What it took.
    folder
        Where they lie.
    """

    functions: int
    compiled: int
    seconds: float
    cpu_seconds: float
    folder: Path


def processor() -> str:
    """Return the processor that functions are compiled for; ``NUMBA_CPU_NAME`` chooses another."""
    return str(_target()[1])


def warm(packages: Mapping[str, Path], begin: Callable[[], None]) -> Warmed:
    """Compile all entries of packages, unless that is known to be done for these sources and this processor.

    Parameters
    ----------
    packages
        Name of each package, and its folder.
    begin
        Called before something has to be loaded or compiled.

    Raises
    ------
    OSError
        If no folder can be written: what is compiled would be lost.
    """
    began, cpu = time.perf_counter(), time.process_time()
    name = f"complete-{_digest(packages)}"
    for folder in folders():
        if (folder / name).exists():
            return Warmed(0, 0, time.perf_counter() - began, time.process_time() - cpu, folder)
    folder = _writable()
    begin()
    tell_of_compiling(whether=False)
    for package, path in packages.items():
        for module, _ in compiled_modules(path, package):
            import_module(module)
    compiled = make_ready(*packages)
    (folder / name).touch()
    return Warmed(len(ENTRIES), compiled, time.perf_counter() - began, time.process_time() - cpu, folder)


def make_ready(*packages: str, without: Sequence[str] = (), begin: Callable[[], None] | None = None) -> int:
    """Load or compile the entries of packages, as far as modules are loaded; return how many were compiled.

    Whoever is about to start several processes, or to lock a device, does that first.

    Parameters
    ----------
    without
        Packages inside of them that are left out.
    begin
        Called once if something has to be compiled, before it is.
    """
    inside, outside = (tuple(f"{name}." for name in names) for names in (packages, without))
    found = [one for name, one in ENTRIES.items() if name.startswith(inside) and not name.startswith(outside)]
    with install_listener("numba:compile", _First(begin)):
        return sum(one.make_ready() for one in found)


class _First(Listener):
    """Calls a function when the first compilation begins."""

    def __init__(self, begin: Callable[[], None] | None) -> None:
        self._begin = begin

    def on_start(self, event: Event) -> None:
        """Call it, unless it has been called."""
        del event
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()

    def on_end(self, event: Event) -> None:
        """Do nothing."""


def _writable() -> Path:
    failed = None
    for folder in folders():
        try:
            make_folder(folder)
            trial = folder / ".trial"
            trial.touch()
        except OSError as error:
            failed = error
            continue
        with suppress(FileNotFoundError):
            trial.unlink()
        return folder
    raise OSError(f"no folder for compiled functions can be written: {failed}")


def _digest(packages: Mapping[str, Path]) -> str:
    digest = hashlib.sha256(repr((numba.__version__, sys.version_info[:2], _target())).encode())
    for package, path in packages.items():
        for name, source in compiled_modules(path, package):
            digest.update(name.encode() + b"\0" + source)
    return digest.hexdigest()[:16]


def _target() -> tuple[object, ...]:
    """Return what numba tells compiled code for one machine from that for another by."""
    return tuple(cpu_target.target_context.codegen().magic_tuple())
