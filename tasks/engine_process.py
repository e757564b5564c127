"""Starts an engine process on a folder and reads its messages; ends it whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from engine.handoff import read_messages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRACE_S = 10.0
"""How long an engine has to end after SIGTERM."""


class EngineProcess:
    """A running engine. `messages` ends when the process does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_file = folder / "engine.log"
        reading, writing = os.pipe()
        # PYTHONSAFEPATH: a folder named `engine` where the run was started must not be imported instead.
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", "engine", str(folder), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                pass_fds=(writing,),
            )
        os.close(writing)
        self._pipe: IO[bytes] = os.fdopen(reading, "rb")
        self._ended = False

    @property
    def messages(self) -> Iterator[dict[str, Any]]:
        """Messages in the order they were sent."""
        yield from read_messages(self._pipe)
        self._ended = True

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the engine finishes its step, sends what it has, and ends."""
        if self.process.poll() is None:
            self.process.terminate()

    def close(self) -> int:
        """End the process if it still runs, and return its exit code (negative: the signal)."""
        if not self._ended:
            self.ask_to_stop()
        self._pipe.close()
        try:
            return self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            # Last: its end tells the engine that we are gone.
            if self.process.stdin is not None:
                self.process.stdin.close()


@contextmanager
def engine_process(folder: Path) -> Iterator[EngineProcess]:
    """Run the engine on `folder` for the length of the block."""
    process = EngineProcess(folder)
    try:
        yield process
    finally:
        process.close()
