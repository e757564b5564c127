"""Anthropic's client: message batches, as it sends them and as lines of its own types."""

import json

import anthropic

from tests.producers.asking import running
from tests.producers.calls import CALLS, Call

KINDS = (
    "plain",
    "system",
    "turns",
    "parts",
    "unicode",
    "limit",
    "sampling",
    "greedy",
    "stop",
    "failure",
    "tools",
)


def params_of(call: Call) -> dict:
    """Return a call of a chat as one of messages."""
    body = {"model": "claude-x", "max_tokens": 64, **call.body}
    if body["messages"][0]["role"] == "system":
        body |= {"system": body["messages"][0]["content"], "messages": body["messages"][1:]}
    if "stop" in body:
        body["stop_sequences"] = body.pop("stop")
    if "tools" in body:
        function = body["tools"][0]["function"]
        body["tools"] = [{"name": function["name"], "input_schema": function["parameters"]}]
        body["tool_choice"] = {"type": "auto"}
    return body


if __name__ == "__main__":
    with running("anthropic") as run:
        client = anthropic.Anthropic(base_url=run.api.url, api_key="none", max_retries=0)
        requests = []
        for call in (call for call in CALLS if call.name in KINDS):
            name = call.name.replace(" ", "-")
            requests.append({"custom_id": name, "params": params_of(call)})
            for log in ("sent", "lines"):
                run.record(call, log=log, custom_id=name)
        client.messages.batches.create(requests=requests)
        data = next(data for path, data in run.api.kept if path.endswith("/batches"))
        run.write("sent/batch.json", data)
        run.write_lines("lines/batch.jsonl", json.loads(data)["requests"])
