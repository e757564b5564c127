"""Another interpreter for a back end: what it can import of this project, and the environment it gets."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parents[1]
LEAST: Final = (3, 11)
"""The oldest Python that the package `engine` runs on."""


def environment_for(python: str | None, folder: Path) -> dict[str, str]:
    """Return the environment of a process of `python` that is to import the package `engine`.

    Another interpreter gets a folder, made in `folder`, that holds a link to this package and nothing else:
    what is installed beside it here belongs to this interpreter, and would hide what is installed there.
    """
    # PYTHONSAFEPATH: a folder named `engine` where the run was started must not be imported instead.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if python is None:
        return environment
    environment["PYTHONPATH"] = str(_importable(folder))
    environment.pop("PYTHONHOME", None)
    return environment


def command_for(python: str | None, module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of the package in `python`; None is this interpreter."""
    return [python or sys.executable, "-m", module, *arguments]


def _importable(folder: Path) -> Path:
    root = folder / "importable"
    root.mkdir(parents=True, exist_ok=True)
    place = root / _PACKAGE.name
    if not place.exists():
        try:
            place.symlink_to(_PACKAGE, target_is_directory=True)
        except OSError:
            # A file system without links.
            shutil.copytree(_PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def at_least(version: str, least: tuple[int, ...]) -> bool:
    """Tell whether a version, as ``0.32.0`` or ``3.12.1+local``, is `least` or later."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers) >= least
