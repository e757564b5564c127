#!/usr/bin/env bash
# litellm 1.110.2 logs the prompt of a text completion under `messages`, in three forms, and some calls twice.
#
# Tried: text completions with a text, with a list of two texts and with token ids, and then forty with a text, with
# a logger that keeps the standard logging payload.
# Guessed: the prompt as it was given, under a name of its own; one record for a call.
# Seen: a text is a user message, two prompts are two user messages of one conversation, token ids are a list of
# numbers where messages are expected; `call_type` alone tells that it was no chat. Of forty calls some have two
# records with the same `id` and `litellm_call_id` whose times differ: whoever counts records counts calls twice.
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

def ask(prompt):
    litellm.text_completion(
        model="text-completion-openai/m", prompt=prompt, max_tokens=3, api_base=url, api_key="none"
    )


prompts = ["once upon", ["one", "two"], [5, 6, 7]]
for prompt in prompts:
    ask(prompt)
for number in range(40):
    ask(f"call {number}")
deadline = time.monotonic() + 20
while len({record["litellm_call_id"] for record in logged}) < 43 and time.monotonic() < deadline:
    time.sleep(0.2)
time.sleep(1)
by_call = {}
for record in logged:
    by_call.setdefault(record["litellm_call_id"], []).append(record)
kinds = [record["messages"] for record in {r["litellm_call_id"]: r for r in logged}.values()]
print("litellm", version("litellm"), "logged")
for kind in kinds[:3]:
    print(" ", json.dumps(kind))
assert {record["call_type"] for record in logged} == {"text_completion"}
user = lambda text: {"role": "user", "content": text}
for expected in ([user("once upon")], [user("one"), user("two")], [5, 6, 7]):
    assert expected in kinds, "the behaviour has changed"
twice = [records for records in by_call.values() if len(records) > 1]
print(len(Server.asked), "calls,", len(logged), "records,", len(twice), "calls have more than one")
assert len(Server.asked) == len(by_call) == 43
assert twice, "the behaviour has changed: every call has one record"
assert all(len({record["id"] for record in records}) == 1 for records in twice), "the behaviour has changed"
print("as described: prompts are messages, and some calls are logged twice under one id")
PY
