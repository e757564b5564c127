"""MLflow's tracing of the OpenAI client, into its own store of files."""

import json
import os

os.environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"}

import mlflow
from openai import OpenAI

from tests.producers.asking import by_openai, running

if __name__ == "__main__":
    with running("mlflow-skinny", "openai") as run:
        mlflow.set_tracking_uri(f"file:{run.out}/store")
        mlflow.set_experiment("night")
        mlflow.openai.autolog()
        run.each(by_openai(OpenAI(base_url=f"{run.api.url}/v1", api_key="none", max_retries=0)))
        traces = mlflow.search_traces(return_type="list", max_results=1000)
        run.write("traces/traces.jsonl", "".join(f"{trace.to_json()}\n" for trace in traces))
        run.write("pretty/traces.json", json.dumps([trace.to_dict() for trace in traces], indent=2))
        for number, trace in enumerate(traces):
            run.write(f"one-each/{number:03}.json", trace.to_json(pretty=True))
        rows = mlflow.search_traces(return_type="pandas", max_results=1000)
        rows.to_json(run.out / "rows.jsonl", orient="records", lines=True)
        run.write("rows/rows.jsonl", (run.out / "rows.jsonl").read_bytes())
