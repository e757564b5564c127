"""Starts an engine process on a folder and reads its messages; ends it whatever happens."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from typing import IO, TYPE_CHECKING, Any

from engine.backends.contract import ASK_TO_GIVE
from engine.backends.interpreter import command_for, environment_for
from engine.job.format import read_messages, read_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

GRACE_S = 10.0
"""How long an engine has to end after SIGTERM."""
AHEAD = 8
"""Messages that are read before they are taken in."""


class EngineProcess:
    """A running engine, the one that the job in `folder` names. `messages` ends when the process does.

    `own_session` keeps signals that are meant for the process group of this one away from it.
    """

    lost: str | None = None
    """A process of this machine is never lost sight of."""

    def __init__(self, folder: Path, *, own_session: bool = False) -> None:
        self.folder = folder
        self.log_file = folder / "engine.log"
        settings = read_settings(folder)
        module = f"engine.backends.{settings.engine}"
        reading, writing = os.pipe()
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                command_for(settings.python, module, str(folder), str(writing)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment_for(settings.python, folder),
                pass_fds=(writing,),
                start_new_session=own_session,
            )
        os.close(writing)
        self._pipe: IO[bytes] = os.fdopen(reading, "rb")
        self._ended = False
        self._arrived: threading.Event | None = None
        self._deadline: float | None = None
        # A thread of its own reads: a signal that interrupts us cannot cut a message in two.
        # It holds few: an engine is not to run ahead of what has been taken in.
        self._received: Queue[dict[str, Any] | None] = Queue(AHEAD)
        self._reader = threading.Thread(target=self._receive, name="engine-messages", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        try:
            for message in read_messages(self._pipe):
                self._put(message)
        finally:
            self._put(None)

    def _put(self, message: dict[str, Any] | None) -> None:
        self._received.put(message)
        if self._arrived is not None:
            self._arrived.set()

    @property
    def messages(self) -> Iterator[dict[str, Any]]:
        """Messages in the order they were sent, to the end of the process."""
        while not self._ended:
            message = self._received.get()
            self._ended = message is None
            if message is not None:
                yield message

    @property
    def ended(self) -> bool:
        """Whether all messages have been returned, and no more will come."""
        return self._ended

    def notify(self, arrived: threading.Event) -> None:
        """Set an event from now on whenever a message has come; those before have to be looked for."""
        self._arrived = arrived

    def poll(self) -> dict[str, Any] | None:
        """Return the next message if it is there; None if not, or if the process has `ended`."""
        if self._ended:
            return None
        try:
            message = self._received.get_nowait()
        except Empty:
            return None
        self._ended = message is None
        return message

    def last_messages(self) -> Iterator[dict[str, Any]]:
        """Ask the engine to stop and return what it still sends: answers that were finished."""
        if not self._ended:
            self.ask_to_stop()
        while not self._ended and (left := self._left()) > 0:
            try:
                message = self._received.get(timeout=left)
            except Empty:
                return
            self._ended = message is None
            if message is not None:
                yield message

    def ask_to_give(self) -> None:
        """Ask for a message `given`: only of an engine that says among its capabilities that it `gives`."""
        if self.process.stdin is not None:
            # One that has just ended does not answer; that is seen by its end.
            with suppress(BrokenPipeError):
                os.write(self.process.stdin.fileno(), ASK_TO_GIVE)

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the engine finishes its step, sends what it has, and ends within `GRACE_S`."""
        if self._deadline is None:
            self._deadline = time.monotonic() + GRACE_S
            if self.process.poll() is None:
                self.process.terminate()

    def close(self) -> int:
        """End the process if it still runs, and return its exit code (negative: the signal)."""
        for _ in self.last_messages():
            pass
        try:
            # One that has said its last word is only given time to end.
            code = self.process.wait(GRACE_S if self._ended else self._left())
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        # Its end tells an engine that we are gone.
        if self.process.stdin is not None:
            self.process.stdin.close()
        while self._reader.is_alive():
            with suppress(Empty):
                self._received.get(timeout=0.1)
        self._pipe.close()
        return code

    def _left(self) -> float:
        return GRACE_S if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class Here:
    """A place for engines: this machine, with `device` for them to compute on."""

    def __init__(self, device: str) -> None:
        self.device = device

    def ready(self) -> bool:
        """Tell that an engine can be started."""
        return True

    def start(self, folder: Path) -> AbstractContextManager[EngineProcess]:
        """Run the engine on `folder` for the length of the block."""
        return engine_process(folder)

    def leave(self) -> None:
        """Nobody else waits for it."""


@contextmanager
def engine_process(folder: Path) -> Iterator[EngineProcess]:
    """Run the engine on `folder` for the length of the block."""
    process = EngineProcess(folder)
    try:
        yield process
    finally:
        process.close()
