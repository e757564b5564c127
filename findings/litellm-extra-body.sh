#!/usr/bin/env bash
# litellm 1.110.2 sends the fields of `extra_body` to the server and leaves them out of what it logs.
#
# Tried: a chat completion with `temperature`, and `top_k` and `min_p` in `extra_body` (how an OpenAI client gives
# parameters that only the server knows), with a logger that keeps the standard logging payload.
# Guessed: `model_parameters` has all three, or names `extra_body`.
# Seen: the server is sent all three; the payload has the temperature alone. A log of such calls cannot be replayed:
# what is sampled from is not in it, and nothing says that something is missing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
    litellm==1.110.2
export LITELLM_LOCAL_MODEL_COST_MAP=True
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
import time

import litellm
from litellm.integrations.custom_logger import CustomLogger

logged = []


class Logger(CustomLogger):
    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        logged.append(kwargs["standard_logging_object"])


litellm.callbacks = [Logger()]

litellm.completion(
    model="openai/m", messages=[{"role": "user", "content": "hi"}], temperature=0.7,
    extra_body={"top_k": 3, "min_p": 0.1}, api_base=url, api_key="none",
)
deadline = time.monotonic() + 20
while not logged and time.monotonic() < deadline:
    time.sleep(0.1)
(sent,), record = Server.asked, logged[0]
print("litellm", version("litellm"), "sent", {k: sent[k] for k in sorted(sent)})
print("and logged", record["model_parameters"])
assert (sent["top_k"], sent["min_p"], sent["temperature"]) == (3, 0.1, 0.7)
assert record["model_parameters"]["temperature"] == 0.7
assert "top_k" not in json.dumps(record["model_parameters"]), "the behaviour has changed"
assert "min_p" not in json.dumps(record["model_parameters"]), "the behaviour has changed"
print("as described: the fields of extra_body are sent and not logged")
PY
