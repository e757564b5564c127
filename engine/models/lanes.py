"""Where the operators of a step are launched: one after the other, or on two streams side by side.

The schedule says what waits for what (`engine.models.schedule`); here each wait between the lanes becomes an
event. On the CPU, and for a step that is not cut, everything runs in the order of the schedule.

Memory across streams. torch gives the memory of a dropped tensor to the next one that is allocated *on the
stream where it was allocated*, as soon as the host has dropped it, and takes for granted that all its readers
are on that stream. Two things keep that true without `record_stream`, whose bookkeeping a graph cannot hold:

- Within a step: a test (`early_drops`) looks for every tensor that one lane allocates and the other one
  drops, whose memory a later operator of the first lane could get before its reader is done. There is none:
  after an ``out`` has dropped the ``mixed`` of its nano-batch, the next operator that is launched on the
  memory lane waits for a ``store`` that comes after that ``out`` on the compute lane.
- Around it: both lanes begin after the current stream and the current stream goes on after both, so whatever
  is dropped after the step, or was before it, is ordered with everything in it. A graph has its own pool with
  one list of free memory for each stream, to which the same applies; so the streams must be the same in all
  graphs that share the pool.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import torch

from engine.models.layer import COMPUTE, MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.models.schedule import Task


class Lanes(Protocol):
    """Runs the tasks of a schedule."""

    def run(self, tasks: Sequence[Task], launch: Callable[[Task], None]) -> None:
        """Launch every task, in the order given, so that it begins after those that it waits for."""
        ...


class InTurn:
    """Launches on the current stream, or runs on the CPU: the order of the launches keeps every wait."""

    def run(self, tasks: Sequence[Task], launch: Callable[[Task], None]) -> None:
        """Launch every task."""
        for task in tasks:
            launch(task)


class StreamLanes:
    """Launches the tasks of the memory lane on a stream of their own.

    Parameters
    ----------
    memory
        The stream of the memory lane, of high priority: attention is to get its multiprocessors first.
    compute
        The stream of the compute lane; None is the current one.
    kept
        Multiprocessors that the matrix products leave to others; None leaves it to the device.
    api
        `torch.cuda`, or a stand-in that records what is issued.
    """

    def __init__(
        self,
        memory: torch.cuda.Stream,
        compute: torch.cuda.Stream | None = None,
        kept: int | None = None,
        api: Any = torch.cuda,  # noqa: ANN401 - a module
    ) -> None:
        self._memory, self._compute, self._kept, self._api = memory, compute, kept, api
        self._events: list[torch.cuda.Event] = []

    def run(self, tasks: Sequence[Task], launch: Callable[[Task], None]) -> None:
        """Launch every task, with an event for each one that a task of the other lane waits for."""
        current = self._api.current_stream()
        streams = {COMPUTE: self._compute or current, MEMORY: self._memory}
        apart = [stream for stream in streams.values() if stream is not current]
        # Used again in every step: each is recorded anew before it is waited for.
        while len(self._events) < len(tasks):
            self._events.append(self._api.Event())
        awaited = {other for task in tasks for other in task.waits}
        for stream in apart:
            stream.wait_stream(current)
        with carveout(self._kept):
            for i, task in enumerate(tasks):
                stream = streams[task.lane]
                for other in task.waits:
                    stream.wait_event(self._events[other])
                with self._api.stream(stream):
                    launch(task)
                if i in awaited:
                    self._events[i].record(stream)
        for stream in apart:
            current.wait_stream(stream)


@contextlib.contextmanager
def carveout(kept: int | None) -> Iterator[None]:
    """Within it matrix products leave `kept` multiprocessors to others; None changes nothing.

    It is an experimental setting of torch that cublasLt alone knows, for the whole process; it is read when a
    product is launched, and so it is kept in a graph.
    """
    if kept is None or not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    torch._C._set_sm_carveout_experimental(kept)  # noqa: SLF001 - there is no other way
    try:
        yield
    finally:
        torch._C._set_sm_carveout_experimental(None)  # noqa: SLF001
        torch.backends.cuda.preferred_blas_library(before)
