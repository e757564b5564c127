"""A proxy before a real server with an OpenAI-compatible API: refusals, answers that never come, resets."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import Counter
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = ("429", "503", "reset", "never", "done, reset", "done, never")
"""What may become of a request instead of its answer: those that are `done` the server has answered, and
nobody hears of it."""


class FaultyProxy:
    """A running proxy; what it lets through is forwarded byte for byte.

    Parameters
    ----------
    target
        Host and port of the server.
    fault
        Is given the number of a request for an answer, from 0; returns one of `FAULTS` or None.
    never_s
        How long an answer that never comes is waited for: longer than the client does.

    Attributes
    ----------
    delivered
        Bodies of the requests whose answers, of status 200, the client has got.
    injected
        How often each fault was.
    """

    def __init__(self, target: str, fault: Callable[[int], str | None], never_s: float) -> None:
        self.target, self.fault, self.never_s = target, fault, never_s
        self.delivered: list[dict[str, Any]] = []
        self.injected: Counter[str] = Counter()
        self.count = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        parent = self

        class Handler(_Handler):
            proxy = parent

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Let nothing through any more."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"
    # Small answers would wait for the acknowledgement of the header.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        proxy = self.proxy
        data = self.rfile.read(int(self.headers["content-length"]))
        with proxy.lock:
            number, proxy.count = proxy.count, proxy.count + 1
            fault = proxy.fault(number)
            proxy.injected.update([] if fault is None else [fault])
        if fault in {"429", "503"}:
            self._send(int(fault), b'{"error": {"message": "not now", "type": "Service Unavailable"}}')
            return
        if fault is not None and not fault.startswith("done"):
            self._fail(fault)
            return
        self._forward(data, fault)

    def _forward(self, data: bytes, fault: str | None = None) -> None:
        try:
            connection = HTTPConnection(self.proxy.target)
            kind = {"content-type": self.headers.get("content-type", "application/json")}
            connection.request(self.command, self.path, data or None, kind)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
            connection.close()
        except (OSError, HTTPException):
            # It is not there, or has gone on the way.
            self._reset()
            return
        if fault is not None:
            self._fail(fault)
            return
        if self._send(status, body) and status == 200 and data:
            with self.proxy.lock:
                self.proxy.delivered.append(json.loads(data))

    def _send(self, status: int, body: bytes) -> bool:
        """Return whether the client was still there."""
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            return False
        return True

    def _fail(self, fault: str) -> None:
        if fault.endswith("never"):
            self.proxy.over.wait(self.proxy.never_s)
        self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            # To close with nothing lingering is a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@contextlib.contextmanager
def faulty_proxy(target: str, fault: Callable[[int], str | None], never_s: float) -> Iterator[FaultyProxy]:
    """Run a proxy for the length of the block."""
    proxy = FaultyProxy(target, fault, never_s)
    try:
        yield proxy
    finally:
        proxy.close()
