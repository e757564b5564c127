"""Langfuse's wrapper of the OpenAI client, against a place that takes what it ingests.

What comes of a span in Langfuse is told by its names of attributes: an observation with those fields, as its
API gives it and as its export to a bucket has it.
"""

import csv
import io
import json
from datetime import UTC, datetime

from langfuse import Langfuse
from langfuse.openai import OpenAI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.producers.asking import by_openai, running
from tests.producers.tools.otlp import as_json

OF = "langfuse.observation."
PAGE = 10


def time_of(nanoseconds: str) -> str:
    return datetime.fromtimestamp(int(nanoseconds) / 1e9, UTC).isoformat(timespec="milliseconds")


def observation(span: dict) -> dict:
    """Return a span as an observation with the names of the API."""
    found = {item["key"]: next(iter(item["value"].values()), None) for item in span["attributes"]}
    parsed = {name: json.loads(found[OF + name]) for name in ("usage_details",) if OF + name in found}
    metadata = {
        name.removeprefix(f"{OF}metadata."): value
        for name, value in found.items()
        if name.startswith(f"{OF}metadata.")
    }
    given = found.get(f"{OF}input")
    return {
        "id": span["spanId"],
        "traceId": span["traceId"],
        "type": str(found.get(f"{OF}type", "span")).upper(),
        "name": span["name"],
        "startTime": time_of(span["startTimeUnixNano"]),
        "endTime": time_of(span["endTimeUnixNano"]),
        "model": found.get(f"{OF}model.name"),
        "modelParameters": json.loads(found.get(f"{OF}model.parameters", "{}")),
        "input": parsed_input(given),
        "output": found.get(f"{OF}output"),
        "usageDetails": parsed.get("usage_details", {}),
        "metadata": metadata,
        "level": found.get(f"{OF}level", "DEFAULT"),
    }


def parsed_input(given: object) -> object:
    try:
        return json.loads(given)
    except (TypeError, ValueError):
        return given


def exported(found: dict) -> dict:
    """Return an observation as its export to a bucket has it: other names, and JSON as text."""
    given = found["input"]
    return {
        "id": found["id"],
        "trace_id": found["traceId"],
        "project_id": "p1",
        "environment": "default",
        "type": found["type"],
        "parent_observation_id": None,
        "start_time": found["startTime"].replace("T", " ").replace("+00:00", ""),
        "end_time": found["endTime"].replace("T", " ").replace("+00:00", ""),
        "name": found["name"],
        "metadata": found["metadata"],
        "level": found["level"],
        "status_message": None,
        "version": None,
        "input": given if given is None or isinstance(given, str) else json.dumps(given, ensure_ascii=False),
        "output": found["output"],
        "provided_model_name": found["model"],
        "model_parameters": json.dumps(found["modelParameters"]),
        "usage_details": found["usageDetails"],
        "cost_details": {},
        "completion_start_time": None,
        "prompt_name": None,
        "prompt_version": None,
    }


def cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


if __name__ == "__main__":
    with running("langfuse", "openai") as run:
        langfuse = Langfuse(public_key="pk", secret_key="sk", base_url=run.api.url)
        run.each(by_openai(OpenAI(base_url=f"{run.api.url}/v1", api_key="none", max_retries=0)))
        langfuse.flush()
        batches = [
            as_json(ExportTraceServiceRequest.FromString(data))
            for path, data in run.api.kept
            if path.endswith("/v1/traces")
        ]
        run.write_lines("otlp/otlp.jsonl", batches)
        spans = [
            span
            for batch in batches
            for resource in batch["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]
        found = [observation(span) for span in spans]
        for page in range(0, len(found), PAGE):
            meta = {"page": page // PAGE + 1, "limit": PAGE, "totalItems": len(found)}
            one = {"data": found[page : page + PAGE], "meta": meta}
            run.write(f"api/page-{page // PAGE}.json", json.dumps(one, ensure_ascii=False))
        rows = list(map(exported, found))
        run.write_lines("export/export.jsonl", rows)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: cell(value) for name, value in row.items()})
        run.write("csv/export.csv", text.getvalue())
