#!/usr/bin/env bash
# langfuse 5.0.4's OpenAI wrapper loses `stop`, and an observation's input changes its form with tools.
#
# Tried: a chat completion with a stop string and a JSON response format, and one with a tool, against a server
# on the loopback address.
# Guessed: the observation's input is the list of messages, its model parameters what shapes the answer.
# Seen: the stop string is in none of the attributes, so that nobody can see from the log why an answer ended or
# ask for it again; the response format is not among the parameters but in the metadata; and the input is a list
# of messages without tools, but an object with keys `tools` and `messages` as soon as there is one tool.
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

asked = [{"role": "user", "content": "hi"}]
tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
client.chat.completions.create(
    model="m", messages=asked, stop=["HALT"], response_format={"type": "json_object"}
)
client.chat.completions.create(model="m", messages=asked, tools=[tool])
langfuse.flush()

plain, tooled = (dict(span.attributes) for span in spans.get_finished_spans())
parameters = json.loads(plain["langfuse.observation.model.parameters"])
print("langfuse", version("langfuse"), "recorded", json.dumps({k: plain[k] for k in sorted(plain)}))
print("and with a tool the input", tooled["langfuse.observation.input"])
assert not any("HALT" in str(value) for value in plain.values()), "the behaviour has changed: stop is recorded"
assert "response_format" not in parameters, "the behaviour has changed"
assert json.loads(plain["langfuse.observation.metadata.response_format"]) == {"type": "json_object"}
assert json.loads(plain["langfuse.observation.input"]) == asked
assert json.loads(tooled["langfuse.observation.input"]) == {"tools": [tool], "messages": asked}
print("as described: the stop string is lost, the input changes its form with tools")
PY
