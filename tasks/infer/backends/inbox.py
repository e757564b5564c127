"""Messages of an engine between the thread that receives them and the one that takes them in."""

from __future__ import annotations

from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import threading

AHEAD: Final = 8
"""Messages that are received before they are taken in: an engine is not to run ahead of that."""


class Inbox:
    """Holds few messages, and after the last one None."""

    def __init__(self) -> None:
        self._received: Queue[dict[str, Any] | None] = Queue(AHEAD)
        self._arrived: threading.Event | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether all messages have been returned, and no more will come."""
        return self._ended

    def notify(self, arrived: threading.Event) -> None:
        """Set an event from now on whenever a message has come; those before have to be looked for."""
        self._arrived = arrived

    def poll(self) -> dict[str, Any] | None:
        """Return the next message if it is there; None if not, or if the inbox has `ended`."""
        try:
            return None if self._ended else self.next_message(0.0)
        except Empty:
            return None

    def next_message(self, wait_s: float | None = None) -> dict[str, Any] | None:
        """Return the next message, None if there is none any more.

        Parameters
        ----------
        wait_s
            How long to wait for it, seconds; None: as long as it takes.

        Raises
        ------
        queue.Empty
            If it has not come until then.
        """
        message = self._received.get(timeout=wait_s) if wait_s != 0.0 else self._received.get_nowait()
        self._ended = message is None
        return message

    def put(self, message: dict[str, Any] | None) -> None:
        """Add a message, or None after the last one; waits for room."""
        self._received.put(message)
        if self._arrived is not None:
            self._arrived.set()
