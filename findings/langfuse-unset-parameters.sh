#!/usr/bin/env bash
# langfuse 5.0.4's OpenAI wrapper records sampling parameters that the caller never set.
#
# Tried: one chat completion with `model` and `messages` alone, against a server on the loopback address.
# Guessed: the observation's model parameters are empty, or have what was given.
# Seen: they say temperature 1, top_p 1, both penalties 0, and max_tokens as the text "Infinity". Whoever
# replays the log by these parameters samples at temperature 1 where the caller took the server's default, and
# meets a limit that is no number. A value of 1 that was given cannot be told from one that was not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check langfuse==5.0.4 openai==3.57.0 opentelemetry-sdk==1.45.2
"$work/env/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from langfuse import Langfuse
from langfuse.openai import OpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Server(BaseHTTPRequestHandler):
    """Answers every chat completion with "ok", and takes whatever else comes."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = {"role": "assistant", "content": "ok"}
        reply = {
            "id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": answer, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        }
        data = json.dumps(reply if self.path.startswith("/v1/chat") else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
langfuse = Langfuse(public_key="pk", secret_key="sk", base_url=url, tracer_provider=provider)
client = OpenAI(base_url=f"{url}/v1", api_key="none")

client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
langfuse.flush()

(span,) = spans.get_finished_spans()
found = json.loads(span.attributes["langfuse.observation.model.parameters"])
print("langfuse", version("langfuse"), "recorded", json.dumps(found))
expected = {"temperature": 1, "max_tokens": "Infinity", "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
assert found == expected, "the behaviour has changed"
print("as described: five parameters are recorded, none of them was set")
PY
