#!/usr/bin/env bash
# opentelemetry-instrumentation-openai-v2 2.4b0 records no limit that is given as `max_completion_tokens`.
#
# Tried: two chat completions with a limit of 5 tokens, as `max_tokens` and as `max_completion_tokens` (its name in
# OpenAI's API since the former is deprecated); the second with a tool that must be called. And a text completion.
# Guessed: `gen_ai.request.max_tokens` is 5 in both, the tool is in `gen_ai.tool.definitions`, three spans.
# Seen: the second has no limit and no trace of the tool or of `tool_choice`; of the text completion there is no
# span at all. A replay of the log answers such requests without their limit, and without their tools.
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

asked = [{"role": "user", "content": "hi"}]
tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
client.chat.completions.create(model="m", messages=asked, max_tokens=5)
client.chat.completions.create(
    model="m", messages=asked, max_completion_tokens=5, tools=[tool], tool_choice="required"
)
client.completions.create(model="m", prompt="once", max_tokens=5)
found = [dict(span.attributes) for span in spans.get_finished_spans()]
print("opentelemetry-instrumentation-openai-v2", version("opentelemetry-instrumentation-openai-v2"))
for attributes in found:
    print({name: attributes[name] for name in sorted(attributes) if "request" in name or "tool" in name})
assert len(Server.asked) == 3
assert len(found) == 2, "the behaviour has changed: text completions have spans"
assert found[0]["gen_ai.request.max_tokens"] == 5
assert not any("max" in name for name in found[1]), "the behaviour has changed: the limit is recorded"
assert not any("look" in str(value) for value in found[1].values()), "the behaviour has changed: tools are recorded"
print("as described: no limit, no tool, no span of the text completion")
PY
