"""Runs engines on a machine for a step infer that is on another one.

It sends nothing by itself: whoever started an engine asks for its messages and says which it has, so one that
was given up cannot put anything into a run. Where nobody asks any more, engine and host end.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from engine.job.format import read_settings
from engine.job.running import RUNNING_FILE
from tasks.infer.backends.engine_process import GRACE_S, EngineProcess

KEPT: Final = 8
"""Messages that are kept until they are acknowledged; the engine waits meanwhile."""
SAID: Final = 20_000
"""Bytes of what an engine has said at its end."""


@dataclass(frozen=True)
class End:
    """How an engine ended.

    Attributes
    ----------
    code
        Its exit code, negative for a signal.
    running
        The file of what it computed then (`engine.job.running`); None: it did not tell.
    said
        The end of its log.
    """

    code: int
    running: bytes | None
    said: bytes


@dataclass(frozen=True)
class Batch:
    """Messages of an engine, the first of which has the number `first`.

    Attributes
    ----------
    files
        Name in the job folder -> content, of files that the messages name.
    end
        Once there is no more.
    """

    first: int
    messages: list[dict[str, Any]]
    files: dict[str, bytes] = field(default_factory=dict)
    end: End | None = None


class EngineHost:
    """Runs one engine at a time.

    Parameters
    ----------
    patience_s
        Without a word from whoever asked for it, it ends its engine and its own process after this.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._root = Path(tempfile.mkdtemp(prefix="nightblend-host-"))
        self._job = ""
        self._engine: EngineProcess | None = None
        self._arrived = threading.Event()
        self._first = 0
        self._kept: list[dict[str, Any]] = []
        self._end: End | None = None
        self._heard = time.monotonic()
        # One call at a time; asking to stop is not to wait for one that waits for messages.
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    def where(self) -> dict[str, Any]:
        """Return what people know the place by: `node`, `pid`."""
        self._heard = time.monotonic()
        return {"node": socket.gethostname(), "pid": os.getpid()}

    def put(self, job: str, name: str, content: bytes) -> None:
        """Append to a file of a job that is being sent."""
        self._heard = time.monotonic()
        path = self._folder(job).joinpath(*PurePosixPath(name).parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content)

    def start(self, job: str) -> int:
        """End an engine of before, start one on a job that is all there, and return its process id."""
        with self._lock:
            self._heard = time.monotonic()
            self._close()
            folder = self._folder(job)
            self._job, self._first, self._kept, self._end = job, 0, [], None
            read_settings(folder)
            self._arrived.clear()
            self._engine = EngineProcess(folder, own_session=True)
            self._engine.notify(self._arrived)
            return self._engine.process.pid

    def take(self, job: str, taken: int, wait_s: float) -> Batch:
        """Return the messages from number `taken` on; those before are acknowledged, and kept no longer.

        Waits up to `wait_s` for the first one. An engine of another job is over: its end has code 0.
        """
        with self._lock:
            self._heard = time.monotonic()
            if job != self._job or self._engine is None:
                return Batch(taken, [], end=self._end if job == self._job else End(0, None, b""))
            del self._kept[: taken - self._first]
            self._first = taken
            self._fill(self._engine, wait_s)
            if not self._kept and self._engine.ended:
                self._close()
                return Batch(taken, [], end=self._end)
            return Batch(taken, list(self._kept), self._files())

    def ask_to_stop(self, job: str) -> None:
        """Have the engine of a job finish its step, send what it has, and end."""
        engine = self._engine
        if job == self._job and engine is not None:
            engine.ask_to_stop()

    def ask_to_give(self, job: str) -> None:
        """Ask the engine of a job for a message `given`."""
        engine = self._engine
        if job == self._job and engine is not None:
            engine.ask_to_give()

    def close(self, job: str) -> None:
        """End the engine of a job, and forget what it has not been asked for."""
        self.ask_to_stop(job)
        with self._lock:
            if job == self._job:
                self._close()

    def _folder(self, job: str) -> Path:
        return self._root / job

    def _fill(self, engine: EngineProcess, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while len(self._kept) < KEPT and not engine.ended:
            self._arrived.clear()
            message = engine.poll()
            if message is not None:
                self._kept.append(message)
            elif self._kept or engine.ended or (left := deadline - time.monotonic()) <= 0:
                return
            else:
                self._arrived.wait(left)

    def _files(self) -> dict[str, bytes]:
        names = [message["file"] for message in self._kept if "file" in message]
        return {name: (self._folder(self._job) / name).read_bytes() for name in names}

    def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        code, running, said = engine.close(), None, b""
        with suppress(FileNotFoundError):
            running = (engine.folder / RUNNING_FILE).read_bytes()
        with suppress(FileNotFoundError):
            said = engine.log_file.read_bytes()[-SAID:]
        self._end = End(code, running, said)
        shutil.rmtree(engine.folder, ignore_errors=True)

    def _watch(self) -> None:
        while (left := self._heard + self._patience_s - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        # The engine ends with us, by the end of its standard input; it gets time to end by itself.
        if self._engine is not None:
            self._engine.ask_to_stop()
            with suppress(Exception):
                self._engine.process.wait(GRACE_S)
        shutil.rmtree(self._root, ignore_errors=True)
        os._exit(1)
