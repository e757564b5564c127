"""Processes that parse the blocks of large objects, while this one reads, and keeps who is a repeat of whom.

A block travels to its process through a file that both have mapped. The process answers twice: with the names
of the requests, which are compared with those of all earlier blocks in order, and with the files it wrote.
"""

from __future__ import annotations

import mmap
import pickle
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from engine.warm import make_ready
from tasks.base.worker_processes import MOST_PROCESSES, WorkerError, how_it_ended, start_worker, usable_cores
from tasks.extract.parse import quick_scan, quick_texts
from tasks.extract.parse.repeats import RepeatCounter
from tasks.extract.text.lines import BLOCK_BYTES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Iterator

    from tasks.extract.parse.drafts import Counts
    from tasks.extract.parse.record_parser import ParseSettings, Place
    from tasks.extract.readers.contract import Reader
    from tasks.extract.text.lines import Block

# glibc gives memory back after every block and gets it again, page by page, for the next: a third of the
# time.
_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


@dataclass(slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    link: Connection
    area: mmap.mmap
    busy: bool = False
    context: int = -1


@dataclass(slots=True)
class _Pending:
    process: _Process
    lines: int
    names: tuple[bytes, bytes] | None = None
    done: tuple[Counts, dict[str, str]] | None = None
    settled: bool = False


@dataclass(slots=True)
class ParsePool:
    """Parsing processes, started when they are first needed; use it as a context manager.

    Parameters
    ----------
    folder : Path
        For the blocks in transit and the files of rows.
    processes : int or None
        None takes one per core that this process may use.
    max_line_bytes : int
        Longest line.
    """

    folder: Path
    max_line_bytes: int
    processes: int | None = None
    files: list[dict[str, Path]] = field(default_factory=list)
    """Files of rows since `take_files`, by table, in order."""
    _processes: list[_Process] = field(default_factory=list)
    _contexts: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.link.close()
        for process in self._processes:
            process.popen.wait()
            process.area.close()
        self._processes.clear()

    def take_files(self) -> list[dict[str, Path]]:
        """Return the files written since the last call."""
        files, self.files = self.files, []
        return files

    def parse(
        self,
        blocks: Iterable[Block],
        place: Place,
        settings: ParseSettings,
        reader: Reader,
        max_line_bytes: int,
    ) -> Iterator[tuple[int, Counts]]:
        """Parse the blocks of one object; yield lines and counts of each.

        Raises
        ------
        WorkerError
            If a process fails.
        """
        self._start()
        self._contexts += 1
        folder = self.folder / f"{self._contexts:06d}"
        folder.mkdir(parents=True)
        context = (place, settings, reader.name, reader.mapping, max_line_bytes, str(folder))
        repeats = RepeatCounter()
        pending: deque[_Pending] = deque()
        for number, block in enumerate(blocks):
            process = self._idle(pending, repeats)
            self._send(process, block, number, context)
            pending.append(_Pending(process, block.lines))
            yield from self._finished(pending)
        while pending:
            self._listen(pending, repeats)
            yield from self._finished(pending)

    def _start(self) -> None:
        if self._processes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Else each of them would compile for itself.
        make_ready(quick_scan.__name__, quick_texts.__name__, RepeatCounter.__module__)
        for index in range(self.processes or min(MOST_PROCESSES, usable_cores())):
            path = self.folder / f"block-{index}"
            size = BLOCK_BYTES + self.max_line_bytes + (2 << 20)
            with path.open("w+b") as file:
                file.truncate(size)
                area = mmap.mmap(file.fileno(), size)
            popen, link = start_worker("tasks.extract.parse.worker", str(path), variables=_MEMORY)
            self._processes.append(_Process(popen, link, area))

    def _send(self, process: _Process, block: Block, number: int, context: tuple[Any, ...]) -> None:
        size = 0
        for piece in block.pieces:
            process.area[size : size + len(piece)] = piece
            size += len(piece)
        given = context if process.context != self._contexts else None
        process.context = self._contexts
        process.busy = True
        self._tell(process, (given, number, block.first, block.offset, block.lines, block.length, size))

    def _idle(self, pending: deque[_Pending], repeats: RepeatCounter) -> _Process:
        while True:
            for process in self._processes:
                if not process.busy:
                    return process
            self._listen(pending, repeats)

    def _listen(self, pending: deque[_Pending], repeats: RepeatCounter) -> None:
        """Take in what the processes say, and tell them who is a repeat as far as that is known."""
        links = {process.link: process for process in self._processes if process.busy}
        for link in wait(list(links)):
            process = links[link]  # type: ignore[index]
            entry = next(entry for entry in pending if entry.process is process and entry.done is None)
            try:
                kind, *said = pickle.loads(process.link.recv_bytes())  # noqa: S301 - from our own process
            except (EOFError, ConnectionError):
                raise how_it_ended("a parsing process", process.popen) from None
            if kind == "failed":
                raise WorkerError(f"a parsing process failed with {said[0]}")
            if kind == "names":
                entry.names = (said[0], said[1])
            else:
                entry.done = (said[0], said[1])
                process.busy = False
        for entry in pending:
            if entry.names is None:
                break
            if not entry.settled:
                names, bodies = (np.frombuffer(data, np.uint64).reshape(-1, 2) for data in entry.names)
                ordinals = repeats.resolve(names, bodies)
                self._tell(entry.process, ordinals if ordinals.any() else None)
                entry.settled = True
                entry.names = (b"", b"")

    def _finished(self, pending: deque[_Pending]) -> Iterator[tuple[int, Counts]]:
        while pending and pending[0].done is not None:
            entry = pending.popleft()
            if entry.done is not None:
                counts, files = entry.done
                self.files.append({table: Path(path) for table, path in files.items()})
                yield entry.lines, counts

    def _tell(self, process: _Process, message: object) -> None:
        try:
            process.link.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        except ConnectionError:
            raise how_it_ended("a parsing process", process.popen) from None
