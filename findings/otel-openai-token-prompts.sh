#!/usr/bin/env bash
# opentelemetry-instrumentation-openai 0.62.4 records a prompt of token ids as one user message per token.
#
# Tried: three text completions: a text, a list of two texts (two prompts, answered apart), a list of token ids (one
# prompt), all of them forms of OpenAI's completions API.
# Guessed: a prompt, two prompts, token ids; or no content where the form has no place for it.
# Seen: `gen_ai.input.messages` of the second is one conversation with two turns of the user, that of the third one
# with a turn for each token whose text is a number. Read as it stands, the log asks something else than was asked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    opentelemetry-instrumentation-openai==0.62.4 openai==3.57.0 opentelemetry-sdk==1.45.2
"$work/env/bin/python" - <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version


class Server(BaseHTTPRequestHandler):
    """Answers every completion with "ok"; keeps what it was asked."""

    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
        self.asked.append(body)
        chat = "chat" in self.path
        said = {"message": {"role": "assistant", "content": "ok"}} if chat else {"text": "ok"}
        reply = {
            "id": f"reply-{len(self.asked)}", "object": "chat.completion" if chat else "text_completion",
            "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, **said}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"
from openai import OpenAI
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
OpenAIInstrumentor().instrument(tracer_provider=provider)
client = OpenAI(base_url=url, api_key="none")

for prompt in ("once upon", ["one", "two"], [5, 6, 7]):
    client.completions.create(model="m", prompt=prompt, max_tokens=3)
found = [json.loads(span.attributes["gen_ai.input.messages"]) for span in spans.get_finished_spans()]
print("opentelemetry-instrumentation-openai", version("opentelemetry-instrumentation-openai"))
for messages in found:
    print(json.dumps(messages))
expected = [["once upon"], ["one", "two"], [5, 6, 7]]
assert [[m["parts"][0]["content"] for m in messages] for messages in found] == expected, "the behaviour has changed"
assert {m["role"] for messages in found for m in messages} == {"user"}, "the behaviour has changed"
print("as described: prompts and tokens became turns of the user")
PY
