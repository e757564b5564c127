#!/usr/bin/env bash
# opentelemetry-instrumentation-openai-v2 2.4b0 records no text of a message whose content is a list of parts.
#
# Tried: one chat completion whose content is a text, and one whose content is the same text as a list of one text
# part (both forms are in OpenAI's API), with content capture switched on.
# Guessed: the same `gen_ai.input.messages` for both.
# Seen: the second has `"parts": []`: a prompt without a word. Whoever replays the log, or counts its tokens from
# the text, takes it for an empty message; the token counts of the same span show that it was not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    opentelemetry-instrumentation-openai-v2==2.4b0 opentelemetry-util-genai==0.4b0 openai==3.57.0 httpx opentelemetry-sdk==1.45.2
export OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental
export OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=span_only
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
from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
OpenAIInstrumentor().instrument(tracer_provider=provider)
client = OpenAI(base_url=url, api_key="none")

text = "Name a river."
client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
client.chat.completions.create(
    model="m", messages=[{"role": "user", "content": [{"type": "text", "text": text}]}]
)
plain, parts = (json.loads(span.attributes["gen_ai.input.messages"]) for span in spans.get_finished_spans())
print("opentelemetry-instrumentation-openai-v2", version("opentelemetry-instrumentation-openai-v2"))
print("content is a text: ", plain)
print("content is a list: ", parts)
assert plain == [{"role": "user", "parts": [{"type": "text", "content": text}]}], "the behaviour has changed"
assert parts == [{"role": "user", "parts": []}], "the behaviour has changed"
print("as described: the text of the second is not recorded")
PY
