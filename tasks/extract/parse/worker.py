"""A parsing process of `tasks.extract.parse.pool`: `python -m tasks.extract.parse.worker FD FILE`."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.base.worker_processes import how_it_failed
from tasks.extract.parse.drafts import Drafts
from tasks.extract.parse.record_parser import RecordParser
from tasks.extract.parse.row_files import TABLES, RowFiles
from tasks.extract.readers import registry
from tasks.extract.readers.generic import generic_reader
from tasks.extract.text.lines import Block

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def serve(link: Connection, area: mmap.mmap) -> None:
    """Parse blocks until the other end closes."""
    worker = _Worker(link)
    while True:
        try:
            message = pickle.loads(link.recv_bytes())  # noqa: S301 - from our own parent
        except (EOFError, ConnectionError):
            return
        try:
            worker.handle(message, area)
        except (EOFError, ConnectionError):
            return
        except Exception as error:  # noqa: BLE001 - told to the parent, which ends the run
            link.send_bytes(pickle.dumps(("failed", how_it_failed(error))))


class _Worker:
    def __init__(self, link: Connection) -> None:
        self._link = link
        self._parser: RecordParser | None = None
        self._max_line_bytes = 0
        self._folder = Path()
        # Whether the last block had repeats; rows are then written only when they are known.
        self._repeats = False

    def handle(self, message: tuple[Any, ...], area: mmap.mmap) -> None:
        context, number, first, offset, lines, length, size = message
        if context is not None:
            self._open(*context)
        parser = self._parser
        if parser is None:
            raise RuntimeError("the first block came without its context")
        drafts = Drafts()
        block = Block(first, offset, (memoryview(area)[:size],), lines, length)
        parser.add_block(block, self._max_line_bytes, drafts)
        names, bodies = drafts.digests()
        self._send("names", names.tobytes(), bodies.tobytes())
        files = {} if self._repeats else self._write(drafts, number)
        ordinals: npt.NDArray[np.int64] | None = pickle.loads(self._link.recv_bytes())  # noqa: S301 - as above
        if ordinals is not None:
            parser.settle(drafts, ordinals)
        if ordinals is not None or self._repeats:
            for path in files.values():
                path.unlink()
            files = self._write(drafts, number)
        self._repeats = ordinals is not None
        if number % 64 == 0:
            gc.collect()
        self._send("done", drafts.counts, {table: str(path) for table, path in files.items()})

    def _open(
        self,
        place: Any,  # noqa: ANN401 - as pickled by the pool
        settings: Any,  # noqa: ANN401
        name: str,
        columns: dict[str, str] | None,
        max_line_bytes: int,
        folder: str,
    ) -> None:
        reader = generic_reader(columns) if columns is not None else registry.READERS[name]
        self._parser = RecordParser(place, settings, reader)
        self._max_line_bytes = max_line_bytes
        self._folder = Path(folder)
        self._repeats = False

    def _write(self, drafts: Drafts, number: int) -> dict[str, Path]:
        with RowFiles(self._folder, f"-{number:06d}") as rows:
            rows.add(drafts)
        return {table: rows.files[table] for table in TABLES if table in rows.files}

    def _send(self, *message: object) -> None:
        self._link.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def main() -> None:
    """Serve the parent that is named on the command line."""
    # Parsing makes no cycles to speak of, and looking for them takes a third of the time.
    gc.disable()
    gc.freeze()
    descriptor, path = sys.argv[1:]
    with Path(path).open("r+b") as file:
        area = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size, access=mmap.ACCESS_READ)
    serve(Connection(int(descriptor)), area)


if __name__ == "__main__":
    main()
