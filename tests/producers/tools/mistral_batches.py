"""Mistral's client: a batch of requests in the call, and the lines of a batch file of its type."""

import json

from mistralai.client import Mistral
from mistralai.client.models import BatchRequest

from tests.producers.asking import body_of, running
from tests.producers.calls import CALLS

LEFT = (
    "several answers",
    "log probabilities",
    "vllm fields",
    "newer limit",
    "streaming",
    "streaming with settings",
)

if __name__ == "__main__":
    with running("mistralai") as run:
        client = Mistral(api_key="none", server_url=run.api.url)
        requests = []
        for call in (call for call in CALLS if call.kind == "chat" and call.name not in LEFT):
            body = {name: value for name, value in body_of(call).items() if name != "model"}
            requests.append(BatchRequest(custom_id=call.name, body=body))
            for log in ("sent", "lines"):
                run.record(call, log=log, custom_id=call.name)
        client.batch.jobs.create(endpoint="/v1/chat/completions", model="small-chat", requests=requests)
        data = next(data for path, data in run.api.kept if path.endswith("/batch/jobs"))
        run.write("sent/batch.json", json.dumps(json.loads(data)))
        lines = [request.model_dump_json(exclude_unset=True) for request in requests]
        run.write("lines/batch.jsonl", "".join(f"{line}\n" for line in lines))
