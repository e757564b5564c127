"""The OpenAI client: batch files as its users write and upload them, for three endpoints."""

import json

from openai import OpenAI

from tests.producers.asking import Run, body_of, running
from tests.producers.calls import CALLS, MODEL, Call

ENDPOINTS = {"chat": "/v1/chat/completions", "text": "/v1/completions", "embedding": "/v1/embeddings"}
RESPONSES = ("plain", "system", "turns", "unicode", "limit", "sampling", "failure", "tools")


def upload(run: Run, client: OpenAI, folder: str, endpoint: str, lines: list[dict]) -> None:
    """Upload a file, make a batch of it, and keep what the server has got."""
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=(f"{folder}.jsonl", data), purpose="batch")
    client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    uploaded = next(data for path, data in reversed(run.api.kept) if path.endswith("/files"))
    begin = uploaded.index(b"\r\n\r\n", uploaded.index(b"filename=")) + 4
    run.write(f"{folder}/input.jsonl", uploaded[begin : begin + len(data)])


def as_response(call: Call) -> dict:
    """Return a call of a chat as one of `/v1/responses`."""
    body = dict(call.body)
    messages = body.pop("messages")
    if messages[0]["role"] == "system":
        body["instructions"] = messages[0]["content"]
        messages = messages[1:]
    if "max_tokens" in body:
        body["max_output_tokens"] = body.pop("max_tokens")
    if "tools" in body:
        body["tools"] = [{"type": "function", **tool["function"]} for tool in body["tools"]]
    return {"model": MODEL, "input": messages[0]["content"] if len(messages) == 1 else messages, **body}


if __name__ == "__main__":
    with running("openai") as run:
        client = OpenAI(base_url=f"{run.api.url}/v1", api_key="none", max_retries=0)
        for kind, endpoint in ENDPOINTS.items():
            lines = []
            for call in (call for call in CALLS if call.kind == kind):
                name = f"{kind}-{call.name}"
                body = body_of(call)
                lines.append({"custom_id": name, "method": "POST", "url": endpoint, "body": body})
                run.record(call, log=kind, custom_id=name)
            upload(run, client, kind, endpoint, lines)
        lines = []
        for call in (call for call in CALLS if call.name in RESPONSES):
            line = {
                "custom_id": call.name,
                "method": "POST",
                "url": "/v1/responses",
                "body": as_response(call),
            }
            lines.append(line)
            run.record(call, log="responses", custom_id=call.name, api="responses")
        upload(run, client, "responses", "/v1/responses", lines)
        # Both in one file, chats first.
        mixed = [json.loads(line) for line in (run.out / "chat" / "input.jsonl").read_text().splitlines()]
        run.write_lines("mixed/input.jsonl", [*mixed[:4], *lines])
        for call in CALLS[:4]:
            run.record(call, log="mixed", custom_id=f"chat-{call.name}")
        for line in lines:
            call = next(call for call in CALLS if call.name == line["custom_id"])
            run.record(call, log="mixed", custom_id=call.name, api="responses")
