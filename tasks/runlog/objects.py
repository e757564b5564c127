"""The objects beside a run log: part files, named by their content, which count once a record names them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.base.identity import file_digest
from tasks.runlog.records import LogFormatError, Part
from tasks.runlog.state import describe
from tasks.store.contract import ObjectNotFoundError

if TYPE_CHECKING:
    from tasks.runlog.records import Body, LogRecord
    from tasks.runlog.state import RunState
    from tasks.store.contract import Store

PART_KINDS = frozenset(
    {
        *("requests", "profiles", "plan", "outputs", "errors", "quarantine"),
        *("steps", "device_samples", "work", "lengths", "comparisons", "images", "promises"),
    }
)


RESTORE_PART = (
    "Put it back from a backup or an earlier version of the object, or run the same command with --rerun, "
    "which computes the night anew"
)
"""What to do about a part that is lost or damaged."""


class RunObjects(ABC):
    """Reads and writes the objects of a run, which `tasks.runlog.log` records."""

    store: Store
    prefix: str

    @property
    @abstractmethod
    def state(self) -> RunState:
        """The fold of the records read so far."""

    @abstractmethod
    def append(self, body: Body) -> LogRecord:
        """Append a record as the holder."""

    @abstractmethod
    def check_held(self) -> None:
        """Raise `StaleWriterError` if the run is known to be lost."""

    def write_part(
        self, kind: str, content: bytes | Path, *, ext: str, count: int, ids_digest: str = "", label: str = ""
    ) -> Part:
        """Upload an object named by its content, then append the record that makes it count.

        Parameters
        ----------
        kind
            One of `PART_KINDS`.
        content
            Bytes, or a local file.
        ext
            Extension without the dot.
        count, ids_digest
            See `Part`.
        label
            Put before the digest in the name, for people.

        Returns
        -------
        Part
            The record; the earlier one if this content is recorded already.
        """
        if kind not in PART_KINDS:
            raise ValueError(f"kind must be one of {', '.join(sorted(PART_KINDS))}, not {kind!r}")
        sha256 = file_digest(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        name = f"{kind}/{label}{'-' if label else ''}{sha256[:16]}.{ext}"
        known = self.state.parts.get(name)
        if known is not None and known.sha256 == sha256:
            return known
        self.check_held()
        if isinstance(content, Path):
            self.store.put_file(self.key(name), content)
            size = content.stat().st_size
        else:
            self.store.put(self.key(name), content)
            size = len(content)
        part = Part(kind, name, sha256, count, ids_digest, size, self.state.attempt_id)
        self.append(part)
        return part

    def fetch_part(self, part: Part, path: Path) -> None:
        """Copy a part to a local file; raise `LogFormatError` if it is not there as it was recorded."""
        where = self.store.object_uri(self.key(part.name))
        try:
            self.store.get_file(self.key(part.name), path)
        except ObjectNotFoundError:
            raise LogFormatError(f"{where} is recorded and not there. {RESTORE_PART}") from None
        if file_digest(path) != part.sha256:
            # Whoever finds it later must not take it for the part.
            path.unlink()
            raise LogFormatError(f"{where} does not have the recorded content. {RESTORE_PART}")

    def write_manifest(self) -> None:
        """Write `manifest.json`, the view for people, from the state as known."""
        data = json.dumps(describe(self.state), ensure_ascii=False, indent=2).encode() + b"\n"
        self.store.put(self.key("manifest.json"), data)

    def key(self, name: str) -> str:
        """Return the store key of an object of this run."""
        return f"{self.prefix}/{name}"
