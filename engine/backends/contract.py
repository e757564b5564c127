"""The contract of a back end: a process ``PYTHON -m MODULE FOLDER FD`` that answers the job in FOLDER.

MODULE gives `engine.backends.process.main` a function of the type `Answer`; everything else that such a
process has to do is done there. The messages that the function sends, and the folder, are described in
`engine.job.format`. PYTHON may be any interpreter in which the package `engine` can be imported, so this
module needs the standard library alone.

The process ends when its parent does, and after SIGTERM as soon as the step in hand is finished, with every
finished answer sent. Its last message says how it ended, its exit code as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import threading
    from pathlib import Path

DONE: Final = 0
"""Exit code: every request is answered; the last message is `done`."""
FAILED: Final = 1
"""Exit code: it could not go on; the last message is `fatal`, or the parent has gone."""
USAGE: Final = 2
"""Exit code: started with other arguments than FOLDER FD."""
STOPPED: Final = 4
"""Exit code: it was asked to stop and can be resumed; the last message is `stopped`."""


ASK_TO_GIVE: Final = b"g"
"""Each of these bytes on standard input asks for one message `given`. The parent sends none to an engine that
does not say `gives` among its capabilities; there they would go unheard."""


class Send(Protocol):
    """Sends one message to the parent, and waits until it has been taken."""

    def __call__(self, message: dict[str, Any]) -> None: ...  # noqa: D102 - described by the class


class Ended(NamedTuple):
    """How a back end has ended its job.

    Attributes
    ----------
    complete
        Whether every request is answered, but for those that were given back; else it was asked to stop.
    counters
        What it counted over the whole job; goes with the last message.
    """

    complete: bool
    counters: dict[str, int]


class Answer(Protocol):
    """Answers the requests of a job."""

    def __call__(self, folder: Path, send: Send, stop: threading.Event) -> Ended:
        """Read the job in `folder`, send `ready`, then answers and figures; return when all has been sent.

        Parameters
        ----------
        folder
            The job, as `engine.job.format.write_job` wrote it. Files that messages name are written here.
        send
            For every message but the last, which is made from what this function returns.
        stop
            Set when the process is asked to stop: look at it after every step.

        Raises
        ------
        engine.errors.EngineError
            Where trying again would not help; its text goes to the parent. Of a `RetryableError` the text
            goes there, too, and the parent may try again. Of any other exception only the type and the place
            are told, and the parent may try again.
        """
        ...


class Prepare(Protocol):
    """Does what needs no device, before it is locked."""

    def __call__(self, device: str, send: Send) -> None:
        """Prepare for answering on `device`; `send` may say ``compiling``."""
        ...
