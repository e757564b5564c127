"""A stand-in for the streams of a device, which records what is issued to them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.models.schedule import Task


class Recorded:
    """A stand-in for `torch.cuda` that keeps what is issued as tasks with their waits.

    Anything may be issued to any stream; what a stream has been told to wait for comes before whatever is
    issued to it next. Work that does not belong to the schedule has the operator number -1.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.created = 0
        self._on: Stream | None = None
        self._streams: list[Stream] = []
        self.main = self.Stream("main")

    def Stream(self, name: str) -> Stream:  # noqa: N802 - as in torch
        self._streams.append(Stream(self, name))
        return self._streams[-1]

    def Event(self) -> Event:  # noqa: N802 - as in torch
        self.created += 1
        return Event()

    def current_stream(self) -> Stream:
        return self.main

    @contextlib.contextmanager
    def stream(self, stream: Stream):
        before, self._on = self._on, stream
        yield
        self._on = before

    def forget(self) -> None:
        """Begin anew, with nothing issued to any stream."""
        self.tasks.clear()
        for stream in self._streams:
            stream.last = None
            stream.told.clear()

    def launch(self, task: Task) -> None:
        assert self._on is not None
        self._on.issue(task)


class Event:
    place: int | None = None

    def record(self, stream: Stream) -> None:
        self.place = stream.last


class Stream:
    def __init__(self, api: Recorded, name: str) -> None:
        self.api, self.name = api, name
        self.last: int | None = None
        self.told: list[int] = []

    def issue(self, task: Task) -> None:
        self.last = len(self.api.tasks)
        self.api.tasks.append(replace(task, lane=self.name, waits=tuple(sorted(self.told))))
        self.told.clear()

    def wait_event(self, event: Event) -> None:
        assert event.place is not None, "an event that was never recorded keeps nobody waiting"
        self.told.append(event.place)

    def wait_stream(self, other: Stream) -> None:
        if other.last is not None:
            self.told.append(other.last)
