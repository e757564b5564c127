"""A proxy before a server that speaks S3: answers that are wrong, late, cut off, stale, or never come."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from enum import StrEnum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATE_S: Final = 0.05
NEVER_S: Final = 1.5
"""Longer than the read timeout of the client under test."""
STALE_KEYS: Final = 2


class StorageFault(StrEnum):
    """What happens to a request instead of its answer."""

    ERROR = "500, not done"
    SLOW_DOWN = "503 SlowDown, not done"
    RESET = "connection reset, not done"
    DONE_ERROR = "done, and answered with 500"
    DONE_RESET = "done, and the connection reset"
    DONE_LATE = "done, and answered after the client has given up"
    LATE = "answered late"
    TRUNCATED = "half of the body"
    STALE_LIST = "a list without its newest keys"
    OTHER_DATE = "a Date that is minutes off"


_NOT_DONE: Final = {
    StorageFault.ERROR: (500, "InternalError"),
    StorageFault.SLOW_DOWN: (503, "SlowDown"),
}
_ANY: Final = (
    *(StorageFault.ERROR, StorageFault.SLOW_DOWN, StorageFault.RESET, StorageFault.LATE),
    *(StorageFault.DONE_ERROR, StorageFault.DONE_RESET),
)


def faults_of(method: str, path: str) -> tuple[StorageFault, ...]:
    """Return what can happen to a request: its method, its path with the query."""
    # Heads and lists are few: what can happen to them alone is given to half of them.
    if method == "HEAD":
        return (*_ANY, *[StorageFault.OTHER_DATE] * len(_ANY))
    if "list-type=2" in path:
        return (*_ANY, StorageFault.TRUNCATED, *[StorageFault.STALE_LIST] * (len(_ANY) + 1))
    return (*_ANY, StorageFault.TRUNCATED) if method == "GET" else _ANY


class Seeded:
    """Faults at random, of a seed.

    Parameters
    ----------
    share
        Of the requests that something happens to.
    outage
        Chance that from a request on none is answered for a time: more often than a client tries.
    length
        Requests that such an outage lasts.
    """

    def __init__(self, seed: int, *, share: float = 0.35, outage: float = 0.003, length: int = 12) -> None:
        self._chance = random.Random(seed)
        self._share, self._outage, self._length = share, outage, length
        self._out = 0

    def __call__(self, method: str, path: str) -> StorageFault | None:
        """Return what happens to a request."""
        chance = self._chance
        if self._out:
            self._out -= 1
            return StorageFault.SLOW_DOWN
        if chance.random() < self._outage:
            self._out = self._length
        if chance.random() >= self._share:
            return None
        if chance.random() < 0.01:
            return StorageFault.DONE_LATE
        return chance.choice(faults_of(method, path))


class FaultyS3:
    """A running proxy.

    Parameters
    ----------
    upstream
        URL of the server.

    Attributes
    ----------
    choose
        Is given method and path of a request, and returns what happens to it; None for nothing at all.
    clock_off_s
        How far the server's clock is ahead: all times that it tells are that much later.
    skews
        Seconds by which a Date is off, in turn.
    exact
        Path prefix whose lists are never stale: what is not there yet is nobody's to answer.
    done
        How often each fault has happened.
    """

    def __init__(self, upstream: str) -> None:
        place = urlsplit(upstream)
        self._host, self._port = place.hostname or "127.0.0.1", place.port or 80
        self.choose: Callable[[str, str], StorageFault | None] = lambda *_: None
        self.clock_off_s = 0.0
        self.skews: tuple[float, ...] = (240.0, -240.0)
        self.exact = "prefix=logs"
        self.done: Counter[StorageFault] = Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                proxy.take(self)

            do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815 - names of the base class

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request, or do not."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            fault = self.choose(request.command, request.path)
            if fault is StorageFault.STALE_LIST and self.exact in request.path:
                fault = None
            if fault is not None:
                self.done[fault] += 1
        if fault is StorageFault.RESET:
            _reset(request)
            return
        refused = _NOT_DONE.get(fault) if fault is not None else None
        if refused is not None:
            _answer(request, *_refusal(*refused))
            return
        status, headers, data = self._forward(request, body)
        if fault is StorageFault.DONE_RESET:
            _reset(request)
            return
        if fault is StorageFault.DONE_ERROR:
            status, headers, data = _refusal(500, "InternalError")
        elif fault in {StorageFault.LATE, StorageFault.DONE_LATE}:
            time.sleep(LATE_S if fault is StorageFault.LATE else NEVER_S)
        elif fault is StorageFault.STALE_LIST:
            data = _without_newest(data)
            headers["Content-Length"] = str(len(data))
        elif fault is StorageFault.OTHER_DATE:
            off = self.skews[self.done[StorageFault.OTHER_DATE] % len(self.skews)]
            headers["Date"] = _later(headers["Date"], off)
        _answer(request, status, headers, data, half=fault is StorageFault.TRUNCATED)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(self._host, self._port, timeout=60)
        try:
            # The body is whole already: waiting to be told to go on would wait for ever.
            headers = {k: v for k, v in request.headers.items() if k.lower() not in {"expect", "connection"}}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            told = {k.title(): v for k, v in answer.getheaders() if k.lower() not in _OF_A_CONNECTION}
            told["Date"] = answer.getheader("Date") or format_datetime(datetime.now(UTC), usegmt=True)
            told.setdefault("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        finally:
            connection.close()
        if self.clock_off_s:
            for name in {"Date", "Last-Modified"} & told.keys():
                told[name] = _later(told[name], self.clock_off_s)
            if "list-type=2" in request.path:
                data = _LISTED_TIME.sub(self._listed_later, data)
                told["Content-Length"] = str(len(data))
        return answer.status, told, data

    def _listed_later(self, found: re.Match[bytes]) -> bytes:
        at = datetime.fromisoformat(found[1].decode()) + timedelta(seconds=self.clock_off_s)
        return b"<LastModified>%s</LastModified>" % at.isoformat().replace("+00:00", "Z").encode()


_OF_A_CONNECTION: Final = {"connection", "transfer-encoding", "date", "server", "keep-alive"}
_LISTED_TIME: Final = re.compile(rb"<LastModified>([^<]+)</LastModified>")
_CONTENTS: Final = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


def _later(date: str, seconds: float) -> str:
    return format_datetime(parsedate_to_datetime(date) + timedelta(seconds=seconds), usegmt=True)


def _without_newest(data: bytes) -> bytes:
    entries = _CONTENTS.findall(data)

    def time_of(entry: bytes) -> bytes:
        found = _LISTED_TIME.search(entry)
        return found[1] if found is not None else b""

    # The sort is stable: of those written in one second the last by name go, the newest of a log.
    for entry in sorted(entries, key=time_of)[-STALE_KEYS:]:
        data = data.replace(entry, b"", 1)
    return data


def _refusal(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    text = f"<Error><Code>{code}</Code><Message>Try again.</Message></Error>".encode()
    date = format_datetime(datetime.now(UTC), usegmt=True)
    return status, {"Date": date, "Content-Type": "application/xml", "Content-Length": str(len(text))}, text


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, *, half: bool = False
) -> None:
    with contextlib.suppress(ConnectionError):
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data[: len(data) // 2] if half else data)
        request.wfile.flush()
    if half:
        request.close_connection = True


def _reset(request: BaseHTTPRequestHandler) -> None:
    # With no time to linger the close is a reset.
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    with contextlib.suppress(OSError):
        request.connection.shutdown(socket.SHUT_RD)
    request.connection.close()


@contextlib.contextmanager
def faulty_s3(upstream: str) -> Iterator[FaultyS3]:
    """Run a proxy before a server inside the block."""
    proxy = FaultyS3(upstream)
    try:
        yield proxy
    finally:
        proxy.stop()
