"""A store in a folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from tasks.base.errors import ConfigurationError
from tasks.store.contract import (
    ObjectInfo,
    ObjectNotFoundError,
    StoreUnavailableError,
    check_key,
    check_prefix,
    probe_store,
    refuses_now,
)
from tasks.store.local_file import _TEMP_PREFIX, _make_folder, _sync_folder, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class FolderStore:
    """A store in a folder of a file system with hard links."""

    def __init__(self, root: Path, *, field: str = "--store") -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - links in the path stay as they were named
        self.uri = self.root.as_uri()
        self._field = field
        self._written = False

    def __repr__(self) -> str:
        return f"FolderStore({str(self.root)!r})"

    def get(self, key: str) -> bytes:
        """Read the whole file."""
        return self.get_with_info(key)[0]

    def get_with_info(self, key: str) -> tuple[bytes, ObjectInfo]:
        """Read the file; the information is of the file that was read, not of a later one."""
        with self.open_stream(key) as stream:
            return stream.read(), _info(key, os.fstat(stream.fileno()))

    def open_stream(self, key: str) -> BinaryIO:
        """Open the file."""
        with self._errors(key):
            return self._path(key).open("rb")

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        with self._errors(key, writing=True), self._temporary(key, lambda out: out.write(data)) as temp:
            temp.replace(self._path(key))
        self._written = True

    def put_file(self, key: str, path: Path) -> None:
        """Copy to a temporary file and rename it."""
        with path.open("rb") as source:

            def copy(out: BinaryIO) -> None:
                shutil.copyfileobj(source, out, 1 << 20)

            with self._errors(key, writing=True), self._temporary(key, copy) as temp:
                temp.replace(self._path(key))
        self._written = True

    def get_file(self, key: str, path: Path) -> None:
        """Copy to a local file."""
        with self.open_stream(key) as source:
            write_whole(path, lambda out: shutil.copyfileobj(source, out, 1 << 20))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Link a temporary file to the key, which fails if the key is taken."""
        target = self._path(key)
        with self._errors(key, writing=True), self._temporary(key, lambda out: out.write(data)) as temp:
            try:
                os.link(temp, target)
            except FileExistsError:
                # Over NFS a repeated request is refused although the first one made the link.
                return temp.stat().st_nlink > 1
            except OSError as error:
                if error.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}:
                    raise ConfigurationError(
                        self._field,
                        f"{self.root} is on a file system without hard links",
                        "use a local or NFS folder, or s3://bucket/prefix",
                    ) from error
                raise
            self._written = True
            return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Walk the folder; temporary files are not objects."""
        check_prefix(prefix)
        top = self.root / prefix.rpartition("/")[0]
        found: list[ObjectInfo] = []
        for folder, below, names in os.walk(top):
            inside = Path(folder).relative_to(self.root).as_posix()
            start = "" if inside == "." else f"{inside}/"
            # A prefix of one file must not cost a walk through all that lies beside it.
            below[:] = [
                name
                for name in below
                if prefix.startswith(f"{start}{name}/") or f"{start}{name}/".startswith(prefix)
            ]
            for name in names:
                key = f"{start}{name}"
                if key.startswith(prefix) and not name.startswith(_TEMP_PREFIX):
                    with suppress(FileNotFoundError):
                        found.append(_info(key, (self.root / key).stat()))
        yield from sorted(found, key=lambda info: info.key)

    def exists(self, key: str) -> bool:
        """Tell whether there is a file."""
        return self._path(key).is_file()

    def age_seconds(self, key: str) -> float | None:
        """Compare with the time given to a file that is written now."""
        path = self._path(key)
        with suppress(FileNotFoundError), self._errors(key, missing=False):
            written = path.stat().st_mtime_ns
            # A file server has a clock of its own; a file written there now shows it.
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_TEMP_PREFIX) as probe:
                probe.write(b".")
                probe.flush()
                now = os.fstat(probe.fileno()).st_mtime_ns
            return max(0.0, (now - written) / 1e9)
        return None

    def delete(self, key: str) -> None:
        """Remove the file; its folder stays."""
        with self._errors(key, missing=False), suppress(FileNotFoundError):
            self._path(key).unlink()

    def object_uri(self, key: str) -> str:
        """Return the `file://` URI."""
        return self._path(key).as_uri()

    def probe(self) -> None:
        """See `Store.probe`."""
        probe_store(self, self._field)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _temporary(self, key: str, write: Callable[[BinaryIO], object]) -> Iterator[Path]:
        # Beside its target: a rename or link across file systems is not atomic or not possible.
        folder = self._path(key).parent
        _make_folder(folder)
        temp = folder / f"{_TEMP_PREFIX}{uuid4().hex}"
        try:
            with temp.open("xb") as out:
                write(out)
                out.flush()
                os.fsync(out.fileno())
            yield temp
        finally:
            temp.unlink(missing_ok=True)
            _sync_folder(folder)

    @contextmanager
    def _errors(self, key: str, *, missing: bool = True, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is missing to a write is its folder: one that cannot be made, or has gone meanwhile.
            if isinstance(error, FileNotFoundError | IsADirectoryError) and not writing:
                if not missing:
                    raise
                raise ObjectNotFoundError(self._path(key).as_uri()) from error
            wrong = self._wrong(error)
            if wrong is None:
                raise StoreUnavailableError(f"{self._path(key)}: {error.strerror or error}") from error
            raise (refuses_now(self.uri, wrong) if self._written else wrong) from error

    def _wrong(self, error: OSError) -> ConfigurationError | None:
        """Return what only a change of settings can help against; None for an error that may pass."""
        of_paths = (
            PermissionError,
            NotADirectoryError,
            FileExistsError,
            FileNotFoundError,
            IsADirectoryError,
        )
        if isinstance(error, of_paths):
            message = f"cannot use {error.filename or self.root}: {error.strerror}"
        elif error.errno == errno.EROFS:
            message = f"{self.root} is read-only"
        else:
            return None
        return ConfigurationError(self._field, message, "name a folder that this user may write")


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return ObjectInfo(key, stat.st_size, etag, datetime.fromtimestamp(stat.st_mtime, UTC))
