"""A small server with the APIs that the tools call, which remembers what it was sent and what it answered.

It answers chat and text completions (whole or streamed), `/v1/responses`, embeddings and Anthropic's
messages, takes files and batches, and keeps whatever else is put to it (spans, objects).
Only the standard library is needed: it runs in the process of a tool.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.producers.calls import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATED = 1_767_225_600
WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "consetetur", "sadipscing", "elitr", "sed", "diam")


@dataclass
class Answered:
    """One answer: what was asked, and the tokens that were counted."""

    path: str
    body: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Api:
    """What a server was sent.

    Attributes
    ----------
    answered
        Calls, in order.
    kept
        Path and bytes of everything else that was posted or put.
    """

    url: str = ""
    answered: list[Answered] = field(default_factory=list)
    kept: list[tuple[str, bytes]] = field(default_factory=list)


@contextlib.contextmanager
def serving() -> Iterator[Api]:
    """Serve on a free port of the loopback address for the length of the block."""
    state = Api()

    class Bound(_Handler):
        api = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._send({"data": [{"id": MODEL, "object": "model"}]})

    def do_PUT(self) -> None:
        self.api.kept.append((self.path, self._data()))
        self.send_response(200)
        self.send_header("etag", '"0"')
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        data, path = self._data(), self.path.partition("?")[0]
        answer = next((make for ending, make in _ANSWERS.items() if path.endswith(ending)), None)
        if answer is None:
            self.api.kept.append((path, data))
            self._send(_kept(path, len(self.api.kept)))
            return
        body = json.loads(data)
        # A call takes some time, so that it can be told from one that has no end.
        time.sleep(0.005)
        known = Answered(path, body, 7 + len(data) % 40, 1 + len(data) % 9)
        self.api.answered.append(known)
        if b"This one is refused." in data:
            self._send({"error": {"message": "no", "type": "invalid_request_error", "code": "x"}}, 400)
            return
        made = answer(known, len(self.api.answered))
        if isinstance(made, list):
            self._stream(made)
        else:
            self._send(made)

    def _data(self) -> bytes:
        if "chunked" in (self.headers.get("transfer-encoding") or ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(pieces)
        else:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

    def _send(self, reply: object, status: int = 200) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: list[tuple[str, object]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for name, event in events:
            head = f"event: {name}\n" if name else ""
            text = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"{head}data: {text}\n\n".encode())


def _kept(path: str, number: int) -> dict[str, Any]:
    """Return what a client wants to hear of a file or of a batch."""
    made: dict[str, Any] = {"id": f"kept-{number}", "object": "file", "status": "validating"}
    if path.endswith("/batch/jobs"):
        counts = ("total_requests", "completed_requests", "succeeded_requests", "failed_requests")
        made |= {"object": "batch", "status": "QUEUED", "input_files": [], "endpoint": "/v1/chat/completions"}
        made |= {"errors": [], "created_at": CREATED, **dict.fromkeys(counts, 0)}
    return made


def _text(known: Answered) -> str:
    return " ".join(WORDS[: known.completion_tokens])


def _chat(known: Answered, number: int) -> object:
    body = known.body
    called = bool(body.get("tools")) and body["messages"][-1]["role"] == "user"
    message: dict[str, Any] = {"role": "assistant", "content": None if called else _text(known)}
    if called:
        function = {"name": "look_up", "arguments": '{"word": "tarn"}'}
        message["tool_calls"] = [{"id": "call_9", "type": "function", "function": function}]
    common = {"id": f"chatcmpl-{number}", "created": CREATED, "model": body["model"]}
    reason = "tool_calls" if called else "stop"
    if body.get("stream"):
        pieces = [{"role": "assistant", "content": ""}, *({"content": f"{w} "} for w in _text(known).split())]
        chunks = [{"choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({"choices": [], "usage": _usage(known)})
        made = [("", {**common, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        return [*made, ("", "[DONE]")]
    choices = [
        {"index": index, "message": message, "finish_reason": reason, "logprobs": None}
        for index in range(body.get("n") or 1)
    ]
    return {**common, "object": "chat.completion", "choices": choices, "usage": _usage(known)}


def _completion(known: Answered, number: int) -> object:
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": CREATED,
        "model": known.body["model"],
        "choices": [{"index": 0, "text": _text(known), "finish_reason": "stop", "logprobs": None}],
        "usage": _usage(known),
    }


def _usage(known: Answered) -> dict[str, Any]:
    asked, given = known.prompt_tokens, known.completion_tokens
    details = {"prompt_tokens_details": {"cached_tokens": 4}}
    return {
        "prompt_tokens": asked,
        "completion_tokens": given,
        "total_tokens": asked + given,
        **details,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _embedding(known: Answered, _: int) -> object:
    vector = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    usage = {"prompt_tokens": known.prompt_tokens, "total_tokens": known.prompt_tokens}
    return {"object": "list", "data": vector, "model": known.body["model"], "usage": usage}


def _response(known: Answered, number: int) -> object:
    body = known.body
    content = [{"type": "output_text", "text": _text(known), "annotations": []}]
    made = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": {},
        "model": body["model"],
        "output": [
            {"id": "m1", "type": "message", "role": "assistant", "status": "completed", "content": content}
        ],
        "parallel_tool_calls": True,
        "temperature": body.get("temperature", 1.0),
        "top_p": body.get("top_p", 1.0),
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": known.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": known.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": known.prompt_tokens + known.completion_tokens,
        },
    }
    if not body.get("stream"):
        return made
    name = "response.completed"
    return [(name, {"type": name, "sequence_number": 1, "response": made})]


def _message(known: Answered, number: int) -> object:
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": known.body["model"],
        "content": [{"type": "text", "text": _text(known)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": known.prompt_tokens, "output_tokens": known.completion_tokens},
    }


_ANSWERS = {
    "/chat/completions": _chat,
    "/v1/completions": _completion,
    "/embeddings": _embedding,
    "/responses": _response,
    "/v1/messages": _message,
}
