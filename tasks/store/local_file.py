"""Whole files on the local disk: complete or absent, never half written."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


_TEMP_PREFIX = ".nightblend-tmp-"


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a local file that appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f"{_TEMP_PREFIX}{os.getpid()}-{path.name}")
    try:
        with temp.open("wb") as out:
            write(out)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        child.mkdir(exist_ok=True)
        _sync_folder(child.parent)


def _sync_folder(folder: Path) -> None:
    # The name of a new file is durable only when its folder is. Some network file systems refuse to
    # sync folders because they need not.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
