"""A tokenising process of `tasks.profile.token_pool`: `python -m tasks.profile.token_worker FD`."""

from __future__ import annotations

import pickle
import signal
import sys
from multiprocessing.connection import Connection

import pyarrow as pa

from tasks.base.worker_processes import how_it_failed
from tasks.profile.row_tokens import RowTokens, encode_rows, render_rows
from tasks.profile.tokenizer import PromptTokenizer, load_tokenizer


def serve(link: Connection) -> None:
    """Answer groups of rows with their tokens until the other end closes; the first message is the model."""
    tokenizer: PromptTokenizer | None = None
    while True:
        try:
            message = pickle.loads(link.recv_bytes())  # noqa: S301 - from our own parent
        except (EOFError, ConnectionError):
            return
        answer: RowTokens | str | None = None
        try:
            if tokenizer is None:
                model, vocab_size, run_date = message
                tokenizer = load_tokenizer(model, vocab_size=vocab_size, run_date=run_date)
            else:
                with pa.ipc.open_stream(message) as stream:
                    rows = stream.read_all().to_pylist()
                answer = encode_rows(render_rows(rows, tokenizer), tokenizer)
        except Exception as error:  # noqa: BLE001 - told to the parent, which ends the run
            answer = how_it_failed(error)
        try:
            link.send_bytes(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
        except ConnectionError:
            return


def main() -> None:
    """Serve the parent that is named on the command line."""
    # Whoever interrupts the run has asked the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
