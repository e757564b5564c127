"""What an attempt has computed is stored by a thread of its own, so that no engine waits for a store."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

HELD_BYTES: Final = 512 << 20
"""Most bytes that wait to be stored; only then does taking more wait for the store."""
_LOOK_S: Final = 1.0
"""Between two looks of a wait, in which a cancelled run can be interrupted."""


class Uploads:
    """Stores one thing after another, in the order in which they came.

    The first error ends the thread. It is raised at the next call; what was not stored by then, that which
    failed included, is kept for `close`, which tries once more.

    Parameters
    ----------
    most_bytes
        See `HELD_BYTES`. A single thing larger than that is taken when nothing else waits.
    """

    def __init__(self, most_bytes: int = HELD_BYTES) -> None:
        self._most = most_bytes
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._held = 0
        self._failure: Exception | None = None
        self._closing = False
        # Guards all of the above.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, store: Callable[[], None], size: int) -> None:
        """Take something to store, of `size` bytes in memory; waits while too much is held.

        Raises
        ------
        Exception
            What storing something else has raised; this was not taken then.
        """
        with self._changed:
            while self._held and self._held + size > self._most and self._failure is None:
                self._changed.wait(_LOOK_S)
            self._raise_failure()
            self._add(store, size)

    def add(self, store: Callable[[], None]) -> None:
        """Take something to store that holds no memory; never waits."""
        with self._changed:
            self._add(store, 0)

    def check(self) -> None:
        """Raise what storing something has raised."""
        with self._changed:
            self._raise_failure()

    def close(self, last: tuple[Callable[[], None], int] | None = None) -> None:
        """Store all that waits, and then `last`; return when it is stored.

        Raises
        ------
        Exception
            If storing fails, for something that failed before: again.
        """
        with self._changed:
            if last is not None:
                self._jobs.append(last)
                self._held += last[1]
            self._end()
        self._join()
        # After an error the thread has left these.
        while self._jobs:
            self._jobs[0][0]()
            self._jobs.popleft()

    def abandon(self) -> None:
        """End without storing what waits; what is being stored is waited for."""
        with self._changed:
            first = 1 if self._thread is not None and self._thread.is_alive() else 0
            while len(self._jobs) > first:
                self._jobs.pop()
            self._end()
        self._join()
        self._jobs.clear()

    def _add(self, store: Callable[[], None], size: int) -> None:
        self._jobs.append((store, size))
        self._held += size
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _end(self) -> None:
        self._closing = True
        self._changed.notify_all()

    def _join(self) -> None:
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(_LOOK_S)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
                    return
                store, size = self._jobs[0]
            try:
                store()
            except Exception as error:  # noqa: BLE001 - raised to whoever gives or closes
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            with self._changed:
                # Only now: what failed is still the first.
                self._jobs.popleft()
                self._held -= size
                self._changed.notify_all()
