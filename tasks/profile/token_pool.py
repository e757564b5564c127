"""Groups of rows to tokens, in order: in this process, or in several with this one among them.

The rendering of a chat is Python, so one process keeps one core busy with it, whatever the tokenizer's
threads do. Other processes take seconds to start: they are used where there is much to do, and until they are
ready this one works alone. What comes out does not depend on how many there are.
"""

from __future__ import annotations

import pickle
import queue
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa

from tasks.base.worker_processes import MOST_PROCESSES, WorkerError, how_it_ended, start_worker, usable_cores
from tasks.profile.row_tokens import COLUMNS, RowTokens, encode_rows, render_rows

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from tasks.profile.tokenizer import PromptTokenizer

POOL_BYTES: Final = 16 << 20
"""Texts of at least this size are tokenised in several processes."""
HELD_BYTES: Final = 16 << 20
"""Rows for each process that are read before those ahead of them are done, such as while it starts."""
_VARIABLES: Final = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
"""Each process works on a group of its own, so none of them needs threads."""

Done: TypeAlias = "tuple[pa.RecordBatch, RowTokens]"


def tokens_of_groups(
    groups: Iterable[pa.RecordBatch],
    tokenizer: PromptTokenizer,
    text_bytes: int,
    processes: int | None = None,
) -> Iterator[Done]:
    """Yield groups of rows with their tokens, in order.

    Parameters
    ----------
    groups : iterable of RecordBatch
        Rows with the columns `tasks.profile.row_tokens.COLUMNS`, and others that are passed on.
    tokenizer : PromptTokenizer
        Of all of them.
    text_bytes : int
        How much text there is, about.
    processes : int or None
        Processes that tokenise, this one among them. None takes one per core where there is much text.

    Raises
    ------
    WorkerError
        If a process fails.
    """
    if processes is None:
        processes = min(MOST_PROCESSES, usable_cores()) if text_bytes >= POOL_BYTES else 1
    if processes == 1:
        yield from _alone(groups, tokenizer)
        return
    with _started(processes - 1, tokenizer) as submit:
        pending: deque[tuple[pa.RecordBatch, Future[RowTokens]]] = deque()
        held = 0
        for group in groups:
            # One group at each process, and one that waits for it: whatever is beyond is done here.
            if sum(not future.done() for _, future in pending) < 2 * (processes - 1):
                found = submit(group)
            else:
                found = Future()
                found.set_result(_tokens_of(group, tokenizer))
            pending.append((group, found))
            held += group.nbytes
            while pending and (pending[0][1].done() or held > HELD_BYTES * processes):
                first, found = pending.popleft()
                held -= first.nbytes
                yield first, found.result()
        for first, found in pending:
            yield first, found.result()


def _tokens_of(group: pa.RecordBatch, tokenizer: PromptTokenizer) -> RowTokens:
    return encode_rows(render_rows(group.select(COLUMNS).to_pylist(), tokenizer), tokenizer)


def _alone(groups: Iterable[pa.RecordBatch], tokenizer: PromptTokenizer) -> Iterator[Done]:
    """Yield groups with their tokens: while one is encoded, the next one is read and rendered."""
    with ThreadPoolExecutor(1, "tokenize") as thread:
        before: tuple[pa.RecordBatch, Future[RowTokens]] | None = None
        for group in groups:
            rendered = render_rows(group.select(COLUMNS).to_pylist(), tokenizer)
            # Only one group is at the tokenizer, whose threads use every core.
            found = thread.submit(encode_rows, rendered, tokenizer)
            if before is not None:
                yield before[0], before[1].result()
            before = group, found
        if before is not None:
            yield before[0], before[1].result()


class _Process:
    """A process with the tokenizer of this one."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.popen: subprocess.Popen[bytes]
        self.link: Connection
        self.popen, self.link = start_worker("tasks.profile.token_worker", variables=_VARIABLES)
        self._model: tuple[Any, ...] | None = (
            tokenizer.model,
            tokenizer.vocab_size,
            tokenizer.template.run_date,
        )

    def ask(self, group: pa.RecordBatch) -> RowTokens:
        if self._model is not None:
            self._say(self._model)
            self._model = None
        sink = pa.BufferOutputStream()
        wanted = group.select(COLUMNS)
        with pa.ipc.new_stream(sink, wanted.schema) as stream:
            stream.write_batch(wanted)
        found: RowTokens = self._say(sink.getvalue().to_pybytes())
        return found

    def _say(self, message: object) -> Any:  # noqa: ANN401 - nothing for the model, `RowTokens` for rows
        try:
            self.link.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
            answer = pickle.loads(self.link.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, ConnectionError):
            raise how_it_ended("a tokenising process", self.popen) from None
        if isinstance(answer, str):
            raise WorkerError(f"a tokenising process failed with {answer}")
        return answer


@contextmanager
def _started(
    count: int, tokenizer: PromptTokenizer
) -> Iterator[Callable[[pa.RecordBatch], Future[RowTokens]]]:
    """Start processes; yield what has a group tokenised by the first of them that is idle."""
    processes: list[_Process] = []
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

    def ask(group: pa.RecordBatch) -> RowTokens:
        process = idle.get()
        try:
            return process.ask(group)
        finally:
            idle.put(process)

    # A thread for each process: while it waits there, this one works.
    threads = ThreadPoolExecutor(count, "tokenize")
    try:
        for _ in range(count):
            processes.append(_Process(tokenizer))
            idle.put(processes[-1])
        yield lambda group: threads.submit(ask, group)
    finally:
        for process in processes:
            # It is idle, or the run is ended and nobody reads what it works on.
            process.popen.kill()
        threads.shutdown(cancel_futures=True)
        for process in processes:
            process.popen.wait()
            process.link.close()
