"""Starts an engine process on a folder and reads its messages; ends it whatever happens."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from queue import Empty
from typing import IO, TYPE_CHECKING, Any

from engine.backends.contract import ASK_TO_GIVE
from engine.backends.interpreter import command_for, environment_for
from engine.job.format import read_messages, read_settings
from tasks.infer.backends.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

GRACE_S = 10.0
"""How long an engine has to end after SIGTERM."""


class EngineProcess(Inbox):
    """A running engine, the one that the job in `folder` names. `messages` ends when the process does.

    `own_session` keeps signals that are meant for the process group of this one away from it.
    """

    lost: str | None = None
    """A process of this machine is never lost sight of."""

    def __init__(self, folder: Path, *, own_session: bool = False) -> None:
        super().__init__()
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
        self._deadline: float | None = None
        # A thread of its own reads: a signal that interrupts us cannot cut a message in two.
        self._reader = threading.Thread(target=self._receive, name="engine-messages", daemon=True)
        self._reader.start()

    def _receive(self) -> None:
        try:
            for message in read_messages(self._pipe):
                self.put(message)
        finally:
            self.put(None)

    @property
    def messages(self) -> Iterator[dict[str, Any]]:
        """Messages in the order they were sent, to the end of the process."""
        while not self._ended:
            message = self.next_message()
            if message is not None:
                yield message

    def last_messages(self) -> Iterator[dict[str, Any]]:
        """Ask the engine to stop and return what it still sends: answers that were finished."""
        if not self._ended:
            self.ask_to_stop()
        while not self._ended and (left := self._left()) > 0:
            try:
                message = self.next_message(left)
            except Empty:
                return
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
                self.next_message(0.1)
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
