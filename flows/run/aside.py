"""Whoever works on a night tells how it goes on, and waits for nobody that is told."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, Self

from tasks.base.progress import told_to

if TYPE_CHECKING:
    from flows.run.reporter import Reporter
    from tasks.base.progress import Amount
    from tasks.infer.progress import InferProgress

PACE_S: Final = 1.0
"""Seconds between two times that progress is told."""
LEAVE_S: Final = 5.0
"""How long the end of a night waits for a reporter that has not heard all of it."""


class Aside:
    """Passes on what it hears from a thread of its own, for the length of the block.

    A terminal that is halted or an API that is gone may hold the thread, never the night: of the progress
    that it could not tell meanwhile only the latest is kept. An error of the reporter is raised at the next
    call, as if it had been called directly.

    Parameters
    ----------
    reporter
        Called by one thread, in the context in which this was made (Prefect knows its flow run by that).
    pace_s
        See `PACE_S`.
    """

    def __init__(self, reporter: Reporter, *, pace_s: float = PACE_S) -> None:
        self._reporter, self._pace = reporter, pace_s
        # Calls in order, at most one of them progress between two others.
        self._calls: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._error: Exception | None = None
        # Of the step that goes on: how far it is, by itself.
        self._amount: Amount | None = None
        self._closed = False
        self._changed = threading.Condition()
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._heard = told_to(self._take_amount)
        self._heard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.__exit__(None, None, None)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(LEAVE_S)

    def begin(self, step: str) -> None:
        """Take note that a step begins."""
        self._amount = None
        self._call("begin", step)

    def end(self, step: str, results: object) -> None:
        """Take note that a step is done, and what it returned."""
        self._call("end", step, results)

    def answered(self, progress: InferProgress) -> None:
        """Take note of how far step `infer` is."""
        self._call("answered", progress)

    def _take_amount(self, amount: Amount) -> None:
        # Read by one thread, written by another: a name that is set, no more.
        self._amount = amount

    def _call(self, name: str, *arguments: object) -> None:
        with self._changed:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if name == "answered" and self._calls and self._calls[-1][0] == name:
                self._calls[-1] = (name, arguments)
                return
            self._calls.append((name, arguments))
            self._changed.notify_all()

    def _run(self) -> None:
        told = begun = 0.0
        step = ""
        while True:
            with self._changed:
                while not self._calls and not self._closed:
                    if not self._changed.wait(self._pace if step else None) and step:
                        break
                # Progress may be replaced by a later one until its turn comes.
                due = told + self._pace
                while self._only_progress() and (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._calls:
                    name, arguments = self._calls.popleft()
                elif self._closed:
                    return
                else:
                    name, arguments = "goes_on", (step, time.monotonic() - begun, self._amount)
            if name == "answered":
                told = time.monotonic()
            elif name != "goes_on":
                step, begun = (str(arguments[0]) if name == "begin" else ""), time.monotonic()
            try:
                getattr(self._reporter, name)(*arguments)
            except Exception as error:  # noqa: BLE001 - raised to whoever tells next
                with self._changed:
                    self._error = error

    def _only_progress(self) -> bool:
        return not self._closed and len(self._calls) == 1 and self._calls[0][0] == "answered"
