"""A server with an OpenAI-compatible API whose answers depend on the request alone, with faults on demand.

It speaks HTTP/1.1 with kept connections like the servers it stands for, holds no more requests than it has
room for, and can go away and come back on its port.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MODEL = "served"
WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "Ähre", "日本", "\u2028")
IMAGE_TOKENS = 64
"""Of any image, as the server counts them where it takes any."""
FAULTS = ("429", "503", "500", "reset", "half", "abort", "empty", "null", "no usage", "late")
"""What can happen to a request instead of its answer."""


def expected(prompt: Any, *, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> tuple[str, str]:
    """Text and finish reason of the answer to a prompt (token ids, text or messages)."""
    asked = [prompt, temperature, seed if temperature else None]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
    wanted = 1 + digest[0] % 12
    count = min(wanted, max_tokens)
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[1 : count + 1]), (
        "stop" if wanted <= max_tokens else "length"
    )


@dataclass
class Seen:
    """What a server has been asked.

    Attributes
    ----------
    bodies
        Of all requests for an answer, in the order they came.
    answered
        Prompts of those that got one.
    headers
        Of the last request.
    most
        Most that it held at a time.
    looks, waiting
        How often it was asked for its metrics, and the longest queue that it told then.
    idle
        How often a seat became free that nobody waited for.
    """

    bodies: list[dict[str, Any]] = field(default_factory=list)
    answered: list[Any] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    most: int = 0
    looks: int = 0
    waiting: int = 0
    idle: int = 0


class OpenAIServer:
    """A running server.

    Parameters
    ----------
    owned_by, version
        What it says it is.
    ids
        Whether it takes token ids.
    key
        API key that it wants.
    seconds
        What an answer takes.
    room
        Most requests that it holds; it answers 503 to others.
    fault
        Is given the number of the request, from 0, and its body; returns one of `FAULTS` or None.
    refuses
        Names of fields to which it answers 400.
    images
        What it does about images: it takes them, refuses them, or answers as if there were none.
    seats
        Requests that it computes at a time; the others wait, and its metrics tell how many. None: all.
    """

    def __init__(
        self,
        *,
        owned_by: str = "vllm",
        version: str = "0.32.0",
        ids: bool = True,
        key: str | None = None,
        seconds: float = 0.0,
        room: int = 10_000,
        fault: Callable[[int, dict[str, Any]], str | None] = lambda _, __: None,
        refuses: frozenset[str] = frozenset(),
        images: Literal["takes", "refuses", "ignores"] = "ignores",
        seats: int | None = None,
        port: int = 0,
    ) -> None:
        self.owned_by, self.version, self.ids, self.key = owned_by, version, ids, key
        self.seconds, self.room, self.fault, self.refuses = seconds, room, fault, refuses
        self.images = images
        self.seen = Seen()
        self.seats = seats
        self.held = 0
        self.computing = threading.Semaphore(seats or 10_000)
        self.lock = threading.Lock()
        self.port = port
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        parent = self

        class Handler(_Handler):
            api = parent

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Close the port; what is being answered is cut off."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def alive(self) -> bool:
        return self._server is not None


class _Handler(BaseHTTPRequestHandler):
    api: OpenAIServer
    protocol_version = "HTTP/1.1"
    # Small answers would wait for the acknowledgement of the header.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        api = self.api
        if self.path == "/v1/models":
            if self._may():
                self._send(200, {"data": [{"id": MODEL, "owned_by": api.owned_by, "root": "/models/one"}]})
        elif self.path == {"vllm": "/version", "llamacpp": "/props"}.get(api.owned_by):
            self._send(200, {"version": api.version, "build_info": api.version})
        elif self.path == "/metrics" and api.seats is not None:
            api.seen.looks += 1
            waiting = max(0, api.held - api.seats)
            api.seen.waiting = max(api.seen.waiting, waiting)
            name = {"vllm": "vllm:num_requests_waiting"}.get(api.owned_by, "llamacpp:requests_deferred")
            text = f'# TYPE {name} gauge\n{name}{{model="m"}} {waiting}.0\n{name}_total 900\n'
            self._send_data(200, text.encode(), "text/plain")
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        api = self.api
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._may():
            return
        with api.lock:
            number = len(api.seen.bodies)
            api.seen.bodies.append(body)
            api.seen.headers = {name.lower(): value for name, value in self.headers.items()}
            full = api.held >= api.room
            if not full:
                api.held += 1
                api.seen.most = max(api.seen.most, api.held)
        if full:
            self._error(503, "Service Unavailable")
            return
        try:
            self._answer(body, api.fault(number, body))
        finally:
            with api.lock:
                api.held -= 1
                api.seen.idle += api.seats is not None and api.held < api.seats

    def _may(self) -> bool:
        if self.api.key is None or self.headers.get("authorization") == f"Bearer {self.api.key}":
            return True
        self._error(401, "Unauthorized")
        return False

    def _answer(self, body: dict[str, Any], fault: str | None) -> None:
        api = self.api
        prompt = body["messages"] if self.path.endswith("/chat/completions") else body["prompt"]
        if body.get("model") != MODEL:
            self._error(404, "NotFoundError")
        elif api.images == "refuses" and _images_in(prompt):
            self._error(400, "this model takes no images")
        elif api.refuses & set(body) or (isinstance(prompt, list) and prompt[:2] == [7, 7]):
            self._error(400, "BadRequestError")
        elif isinstance(prompt, list) and prompt and isinstance(prompt[0], int) and not api.ids:
            self._error(400, "prompt must be a string")
        else:
            with api.computing:
                time.sleep(api.seconds)
            if not api.alive:
                self._reset()
            elif fault is None:
                self._give(body, prompt)
            else:
                self._fail(fault, body, prompt)

    def _fail(self, fault: str, body: dict[str, Any], prompt: Any) -> None:
        if fault == "429":
            self._send(429, {"error": {"message": str(prompt)}}, {"retry-after": "0.05"})
        elif fault in {"503", "500"}:
            self._error(int(fault), "EngineCore encountered an issue")
        elif fault == "reset":
            self._reset()
        elif fault == "half":
            self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"choices": [')
            self._reset()
        elif fault == "late":
            time.sleep(1.0)
            self._give(body, prompt)
        else:
            reply = self._reply(body, prompt)
            if fault == "abort":
                reply["choices"][0] |= {"text": "", "finish_reason": "abort"}
            elif fault == "empty":
                reply["usage"]["completion_tokens"] = 0
            elif fault == "null":
                reply["choices"][0] |= {"text": None}
            else:
                del reply["usage"]
            self._send(200, reply)

    def _give(self, body: dict[str, Any], prompt: Any) -> None:
        with self.api.lock:
            self.api.seen.answered.append(prompt)
        self._send(200, self._reply(body, prompt))

    def _reply(self, body: dict[str, Any], prompt: Any) -> dict[str, Any]:
        api = self.api
        text, reason = expected(
            prompt, max_tokens=body["max_tokens"], temperature=body["temperature"], seed=body["seed"]
        )
        tokens = text.count(" ") + 1
        chat = "messages" in body
        counted = len(prompt) if not chat and isinstance(prompt, list) else _words_of(prompt)
        if api.images == "takes":
            counted += IMAGE_TOKENS * _images_in(prompt)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if body.get("return_token_ids") and self.api.owned_by == "vllm":
            choice["token_ids"] = list(range(5, 5 + tokens))
        usage: dict[str, Any] = {"prompt_tokens": counted, "completion_tokens": tokens}
        if self.api.owned_by == "llamacpp":
            usage["prompt_tokens_details"] = {"cached_tokens": counted - 1}
        return {"model": MODEL, "choices": [choice], "usage": usage}

    def _error(self, status: int, kind: str) -> None:
        self._send(status, {"error": {"message": "secret prompt text", "type": kind, "code": status}})

    def _send(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        self._send_data(status, json.dumps(body).encode(), "application/json", headers)

    def _send_data(
        self, status: int, data: bytes, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if not self.api.alive:
                self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            # To close with nothing lingering is a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _words_of(prompt: Any) -> int:
    """Count the words of a text or of messages; parts of other types than text have none."""
    if isinstance(prompt, str):
        return len(prompt.split())
    shown = [
        {**message, "content": [part for part in message["content"] if part["type"] == "text"]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]
    return len(str(shown).split())


def _images_in(prompt: Any) -> int:
    if not isinstance(prompt, list) or (prompt and isinstance(prompt[0], int)):
        return 0
    contents = [message["content"] for message in prompt if isinstance(message["content"], list)]
    return sum(part["type"] == "image_url" for content in contents for part in content)


@contextlib.contextmanager
def openai_server(**settings: Any) -> Iterator[OpenAIServer]:
    """Run a server for the length of the block."""
    server = OpenAIServer(**settings)
    try:
        yield server
    finally:
        server.die()
