"""Digests of a model's files, which are remembered: weights that nobody has touched are not read every night.

They are kept in the user's cache folder, a file per model folder, replaced as a whole: whoever writes last
wins, and what another process has found meanwhile is found again. What cannot be kept there is computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from engine.model_files import ModelFile, Stamp, file_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

SETTLED_NS: Final = 2_000_000_000
"""A file that was changed less than this before it was read may change again without another time."""
_READERS: Final = 4
_VERSION: Final = 1

_known: dict[Path, dict[str, ModelFile]] = {}
"""By folder, for this process: a cache folder that cannot be written to is no reason to read twice."""


def model_files(folder: Path, names: Sequence[str]) -> list[ModelFile]:
    """Return files of a folder with their digests; only those are read that have changed since the last time.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    folder = folder.resolve()
    before = _known.get(folder) or _read(folder)
    with ThreadPoolExecutor(_READERS) as pool:
        looked = list(pool.map(lambda name: _look(folder / name, name, before.get(name)), names))
    remembered = {file.name: file for file, settled in looked if settled}
    _known[folder] = remembered
    if remembered != before:
        _write(folder, remembered)
    return [file for file, _ in looked]


def _look(path: Path, name: str, known: ModelFile | None) -> tuple[ModelFile, bool]:
    """Return a file, and whether its stamp will tell of a change."""
    stamp = Stamp.of(path)
    if known is not None and known.stamp == stamp:
        return known, True
    begun = time.time_ns()
    file = ModelFile(name, stamp, file_digest(path))
    quiet = max(stamp.mtime_ns, stamp.ctime_ns) < begun - SETTLED_NS
    return file, quiet and Stamp.of(path) == stamp


def _place(folder: Path) -> Path:
    above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightblend" / "models"
    return above / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _read(folder: Path) -> dict[str, ModelFile]:
    try:
        content: Any = json.loads(_place(folder).read_bytes())
        if content["version"] != _VERSION or content["folder"] != os.fspath(folder):
            return {}
        files = [ModelFile(f["name"], Stamp(**f["stamp"]), f["sha256"]) for f in content["files"]]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        log.debug("no digests of %s are remembered (%s)", folder, type(error).__name__)
        return {}
    return {file.name: file for file in files}


def _write(folder: Path, files: dict[str, ModelFile]) -> None:
    content = {"version": _VERSION, "folder": os.fspath(folder), "files": [asdict(f) for f in files.values()]}
    try:
        place = _place(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        written = place.with_name(f"{place.name}.{uuid4().hex}")
        written.write_text(json.dumps(content))
        written.replace(place)
    except (OSError, RuntimeError) as error:
        log.debug("the digests of %s are not remembered (%s)", folder, type(error).__name__)
