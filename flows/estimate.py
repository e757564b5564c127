"""The estimate as a flow: what a night of past logs would take and save, as artifacts in Prefect.

python -m flows.estimate --source logs/ --model llama-3.1-8b --gpu a100,h100 --price 2.5
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.parameters.estimate import EstimateParameters  # noqa: TC001 - Prefect reads it
from flows.parameters.to_request import estimate_request
from tasks.estimate.estimate import estimate as make_estimate
from tasks.estimate.page import document
from tasks.report.document import to_html, to_markdown

_NO_KEY = re.compile(r"[^a-z0-9]+")


@task(name="estimate", task_run_name="estimate", cache_policy=NO_CACHE, persist_result=False)
def simulate(parameters: EstimateParameters) -> dict[str, Any]:
    """Read the logs and simulate the night."""
    return make_estimate(estimate_request(parameters), told=get_run_logger().info)


@flow(name="estimate", persist_result=False, validate_parameters=True)
def estimate(parameters: EstimateParameters) -> dict[str, Any]:
    """Tell what a night of past logs would take and save on GPUs that are not rented yet.

    Parameters
    ----------
    parameters
        What is asked.

    Returns
    -------
    dict
        As `tasks.estimate.estimate.estimate`.
    """
    result = simulate(parameters)
    made = document(result)
    key = _NO_KEY.sub("-", f"estimate-{result['model']}".lower()).strip("-")
    create_markdown_artifact(to_markdown(made), key=key, description=made.subtitle)
    create_table_artifact(_rows(result), key=f"{key}-orders", description="Every order (simulated)")
    if parameters.out is not None:
        Path(parameters.out).write_text(to_html(made), encoding="utf-8")
        get_run_logger().info("written to %s", parameters.out)
    return result


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("order", "overlap", "tokens_per_second", "gpu_hours", "hours", "money", "optimum_share", "label")
    return [
        {"machine": machine["machine"], **{name: row[name] for name in names}}
        for machine in result["machines"]
        for row in machine["orders"]
    ]


if __name__ == "__main__":
    # The command line is above the flows and not imported by them: it is run, as `python -m flows` does.
    sys.argv[1:1] = ["estimate", "--as-flow"]
    runpy.run_module("flows", run_name="__main__", alter_sys=True)
