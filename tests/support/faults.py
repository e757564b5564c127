"""Nights whose process dies, or whose store fails, at a chosen durable write.

The writes are numbered as they are made; which code makes durable writes at all is read from the source.
"""

from __future__ import annotations

import ast
import sys
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tasks.store.contract import StoreUnavailableError
from tasks.store.folder import FolderStore
from tasks.store.s3 import S3Store
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

T = TypeVar("T")

WRITES: Final = frozenset({"put", "put_file", "put_if_absent", "delete"})
"""Methods of a store that change it."""
HEARTBEAT: Final = "heartbeat.json"
"""Written as time goes by: it has no number, and nothing depends on it but who waits how long."""


class KilledError(BaseException):
    """The process is dead: nothing that it still does reaches the store."""


class Fault(StrEnum):
    """What happens at a durable write."""

    KILL_BEFORE = "killed before it"
    KILL_AFTER = "killed after it"
    NOT_DONE = "not done, and answered with an error"
    NOT_ANSWERED = "done, and answered with an error"


KILLS: Final = frozenset({Fault.KILL_BEFORE, Fault.KILL_AFTER})


@dataclass
class Plan:
    """Which write of a process goes wrong, and how; and what the process wrote.

    Attributes
    ----------
    faults
        By the number of the write.
    sites
        ``file:function`` of the code that made each write.
    """

    faults: Mapping[int, Fault] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)
    dead: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> tuple[int, Fault | None]:
        """Take note of a write and return its number and its fate."""
        with self.lock:
            number = len(self.sites)
            self.sites.append(site_of_caller())
        return number, self.faults.get(number)


class _Planned:
    """Before a store: its writes go wrong as planned."""

    plan: Plan

    def open_stream(self, key: str) -> Any:
        self._check_alive()
        return super().open_stream(key)  # type: ignore[misc]

    def put(self, key: str, data: bytes) -> None:
        write = super().put  # type: ignore[misc]
        if key.endswith(HEARTBEAT):
            if self.plan.dead:
                # Of a thread that has no business any more: quietly.
                raise OSError("the process is dead")
            write(key, data)
            return
        self._write(lambda: write(key, data))

    def put_file(self, key: str, path: Path) -> None:
        write = super().put_file  # type: ignore[misc]
        self._write(lambda: write(key, path))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        write = super().put_if_absent  # type: ignore[misc]
        return self._write(lambda: bool(write(key, data)))

    def delete(self, key: str) -> None:
        write = super().delete  # type: ignore[misc]
        self._write(lambda: write(key))

    def _check_alive(self) -> None:
        if self.plan.dead:
            raise KilledError

    def _write(self, write: Callable[[], T]) -> T:
        self._check_alive()
        number, fault = self.plan.next()
        if fault is Fault.KILL_BEFORE:
            self.plan.dead = True
            raise KilledError(number)
        if fault is Fault.NOT_DONE:
            raise StoreUnavailableError(f"write {number} is not done")
        result = write()
        if fault is Fault.KILL_AFTER:
            self.plan.dead = True
            raise KilledError(number)
        if fault is Fault.NOT_ANSWERED:
            raise StoreUnavailableError(f"write {number} is done, and not answered")
        return result


class FaultyStore(_Planned, FolderStore):
    """A folder whose writes go wrong as planned."""

    def __init__(self, root: Path, plan: Plan) -> None:
        super().__init__(root)
        self.plan = plan


class FaultyS3Store(_Planned, S3Store):
    """A bucket whose writes go wrong as planned, whatever happens to their requests besides."""

    def __init__(self, bucket: str, prefix: str, plan: Plan) -> None:
        super().__init__(bucket, prefix)
        self.plan = plan


def site_of_caller() -> str:
    """Return ``file:function`` of the first caller outside the stores and this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != Path(__file__):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("tasks/store/") or frame.f_code.co_name == "probe_store":
                return f"{name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


def write_sites(folders: Iterable[str] = ("tasks", "flows")) -> set[str]:
    """Return ``file:function`` of all code outside the stores that calls a changing method of a store."""
    found = set()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("tasks/store/"):
                found |= {
                    f"{name}:{function}" for function in _writing_functions(ast.parse(path.read_text()))
                }
    return found


def _writing_functions(tree: ast.AST, inside: str = "<module>") -> set[str]:
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= _writing_functions(node, node.name)
            continue
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in WRITES
            and ast.unparse(node.func.value).endswith("store")
        ):
            found.add(inside)
        found |= _writing_functions(node, inside)
    return found
