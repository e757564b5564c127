"""What the process of every back end does: it guards the device, reports its end, and ends with its parent.

It has no storage credentials and knows no store.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from engine.backends.contract import ASK_TO_GIVE, DONE, FAILED, STOPPED, USAGE
from engine.choices import ENDPOINT
from engine.cost.devices import lock_file
from engine.errors import DeviceBusyError, EngineError, RetryableError
from engine.job.format import read_settings, write_message
from engine.model_files import ModelCheck

if TYPE_CHECKING:
    from engine.backends.contract import Answer, Prepare


def main(
    answer: Answer,
    arguments: list[str],
    prepare: Prepare | None = None,
    asked: threading.Event | None = None,
) -> int:
    """Run ``python -m MODULE FOLDER FD``: FD is the pipe's file descriptor, inherited from the parent.

    `prepare` is called before the device is locked. `asked` is set whenever the parent asks for requests
    back; None: this engine cannot give any.
    """
    if len(arguments) != 2 or not arguments[1].isdigit():
        sys.stderr.write("usage: python -m MODULE FOLDER FD\n")
        return USAGE
    with os.fdopen(int(arguments[1]), "wb") as pipe:
        return run(answer, Path(arguments[0]), pipe, prepare, asked)


def run(
    answer: Answer,
    folder: Path,
    pipe: IO[bytes],
    prepare: Prepare | None = None,
    asked: threading.Event | None = None,
) -> int:
    """Have the job in `folder` answered, write the messages to `pipe`, and return the exit code."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_listen_to_parent, args=(asked,), daemon=True).start()
    try:
        device = read_settings(folder).device
        if prepare is not None:
            prepare(device, partial(write_message, pipe))
        with device_lock(device):
            check_model = ModelCheck(folder)
            check_model()

            def send(message: dict[str, Any]) -> None:
                if message["type"] == "ready":
                    # What is loaded by now is what the files were meanwhile.
                    check_model()
                write_message(pipe, message)

            complete, counters = answer(folder, send, stop)
            write_message(pipe, {"type": "done" if complete else "stopped", "counters": counters})
            return DONE if complete else STOPPED
    except EngineError as error:
        retryable = isinstance(error, RetryableError)
        busy = {"busy": True} if isinstance(error, DeviceBusyError) else {}
        write_message(pipe, {"type": "fatal", "message": str(error), "retryable": retryable, **busy})
    except Exception as error:  # noqa: BLE001 - the boundary of the process: the parent must hear of it
        # The text of an unknown error could quote a prompt; its type and place cannot.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        message = f"{type(error).__name__} at {where}"
        write_message(pipe, {"type": "fatal", "message": message, "retryable": True})
    return FAILED


def leave(code: int) -> NoReturn:
    """End this process now, with an exit code.

    By then everything has been said. What torch does at the end of an interpreter takes a second in which
    the device is held for nothing; what engines by others do may take longer than the parent waits.
    """
    for stream in (sys.stdout, sys.stderr):
        # Nobody may be there who reads it.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _listen_to_parent(asked: threading.Event | None) -> None:
    """Hear the parent's questions until the end of standard input, which it keeps open while it lives."""
    # Bytes, not messages: none can be cut in two, and no buffer is locked when the interpreter ends.
    while said := os.read(0, 4096):
        if asked is not None and ASK_TO_GIVE in said:
            asked.set()
    os._exit(FAILED)


class device_lock:  # noqa: N801 - used like a function
    """Keeps two engines off one accelerator; the CPU, and servers elsewhere, are shared by all.

    Raises
    ------
    DeviceBusyError
        On entering, if another process holds the device.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        if self._device in {"cpu", ENDPOINT}:
            return
        path = lock_file(self._device)
        self._file = path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeviceBusyError(f"device {self._device} is used by another engine ({path})") from None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
