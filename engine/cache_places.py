"""Folders for what can be made again: compiled functions, what is known of a tokenizer."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent


@cache
def cache_places() -> tuple[Path, ...]:
    """Return the folders in which such things are looked for, the one that is written to first.

    Beside the package, if that can be written, as in a checkout or while an image is built; else in the
    user's own cache. Both are read, so an image brings along what it has and nobody needs to own it.
    """
    beside = _PACKAGE / "__pycache__"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightblend"
    writable = os.access(beside if beside.exists() else _PACKAGE, os.W_OK)
    return (beside, home) if writable else (home, beside)
