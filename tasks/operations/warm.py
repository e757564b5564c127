"""Compiling ahead of time: all functions that a night runs, from reading logs to the simulator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.warm import Warmed


def warm_everything(begin: Callable[[str], None]) -> Warmed:
    """Compile what is not on disk yet; `begin` is told for which processor, if there may be something to do.

    Raises
    ------
    ConfigurationError
        If there is no place for it.
    """
    from engine.warm import processor, warm

    root = Path(__file__).parents[2]
    try:
        return warm({name: root / name for name in ("engine", "tasks")}, lambda: begin(processor()))
    except OSError as error:
        raise ConfigurationError("NUMBA_CACHE_DIR", str(error), "let it name a folder to write to") from error


def build_in_c() -> str:
    """Build the CPU's operations in C, for this machine or, with NUMBA_CPU_NAME, for all; return why not."""
    from engine.kernels.host_build import NoCompilerError, build, level, levels

    try:
        for one in levels() if os.environ.get("NUMBA_CPU_NAME") else (level(),):
            build(one)
    except NoCompilerError as error:
        return str(error)
    return ""


def told(warmed: Warmed) -> str:
    """Return what was done, in a line."""
    if not warmed.functions:
        return f"Nothing to compile: all functions are in {warmed.folder}."
    return (
        f"Compiled {warmed.compiled} of {warmed.functions} functions in {warmed.seconds:.1f} s "
        f"({warmed.cpu_seconds:.1f} s of CPU): {warmed.folder}."
    )
