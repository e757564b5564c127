"""The files of a model, as they were when a run was named by them: what an engine loads is checked.

A file whose size and times are the same is taken for the same. Only where they differ its content is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL_FILES: Final = "model_files.json"
"""Beside a job: the files that its model has to have; absent: they are not checked."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells without reading it that a file is still the same.

    Attributes
    ----------
    size
        Bytes.
    mtime_ns, ctime_ns
        When its content, and when anything about it was changed last: copies that keep the first (`rsync -t`,
        `cp -p`) change the second.
    inode
        Another file under the same name has another one.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Return that of a file, or of what a link points to."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model: its name below the folder, its stamp, and the SHA-256 of its content in hex."""

    name: str
    stamp: Stamp
    sha256: str


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_model_files(job: Path, folder: Path, files: Sequence[ModelFile]) -> None:
    """Write beside a job which files its model, in `folder`, has to have."""
    job.mkdir(parents=True, exist_ok=True)
    content = {"folder": os.fspath(folder), "files": [asdict(file) for file in files]}
    (job / MODEL_FILES).write_text(json.dumps(content))


class ModelCheck:
    """Checks that the files of a job's model are those that `write_model_files` named.

    Parameters
    ----------
    job
        Folder of the job; without such a file in it, nothing is checked.
    """

    def __init__(self, job: Path) -> None:
        path = job / MODEL_FILES
        content: dict[str, Any] = {"folder": "", "files": []}
        if path.exists():
            content = json.loads(path.read_text())
        self._folder = Path(content["folder"])
        self._files = [
            ModelFile(file["name"], Stamp(**file["stamp"]), file["sha256"]) for file in content["files"]
        ]

    def __call__(self) -> None:
        """Look at every file; one with another stamp is read.

        Raises
        ------
        EngineError
            Naming the first file that is missing or has another content.
        """
        for place, file in enumerate(self._files):
            path = self._folder / file.name
            try:
                stamp = Stamp.of(path)
                same = stamp == file.stamp or file_digest(path) == file.sha256
            except OSError as error:
                raise _changed(path, f"cannot be read any more ({type(error).__name__})") from None
            if not same:
                raise _changed(path, "has another content than when the run began")
            self._files[place] = replace(file, stamp=stamp)


def _changed(path: Path, what: str) -> EngineError:
    return EngineError(
        f"--model: {path} {what}; put the file of before back and run the same command again, or begin anew "
        "with the present one: that is another run"
    )
