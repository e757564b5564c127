"""The nightly flow: extract -> tokenize -> profile -> plan -> infer -> publish as Prefect tasks.

    python -m flows.nightly --job demo --source logs/ --store store/ --model model/ --run-date 2026-11-22

The order of the steps is that of `flows.night.run_night`; here they become tasks, so that each has its state,
log and time in Prefect. The run log is the only memory of a run: tasks cache nothing and persist nothing, and
the hold on the log passes from task to task inside this one process.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run

from flows.catch_up import catching_up
from flows.console import rows_of
from flows.night import Steps, run_night
from flows.parameters import NightlyParameters
from tasks.infer import infer
from tasks.inputs import prepare, record_inputs
from tasks.plan import plan
from tasks.profile import profile
from tasks.publish import publish

if TYPE_CHECKING:
    import logging

    from tasks.infer import InferProgress

REPORT_S = 10.0
"""Seconds between two log lines about the progress of step `infer`."""


def _task(name: str, function: Any) -> Any:  # noqa: ANN401 - a task takes and returns what the function does
    return task(
        function,
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


STEPS = Steps(
    extract=_task("extract", prepare),
    tokenize=_task("tokenize", record_inputs),
    profile=_task("profile", profile),
    plan=_task("plan", plan),
    infer=_task("infer", infer),
    publish=_task("publish", publish),
)


class _LogReporter:
    """Tells the flow run's log how a night goes on."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        self._log = log
        self._told = 0.0

    def begin(self, step: str) -> None:
        pass

    def end(self, step: str, results: object) -> None:
        pass

    def answered(self, progress: InferProgress) -> None:
        if progress.seconds - self._told >= REPORT_S:
            self._told = progress.seconds
            self._log.info("%d of %d requests answered", progress.answered, progress.requests)


def run_name() -> str:
    """Return `{job}-{run_date}`, the name of the flow run."""
    parameters = NightlyParameters.model_validate(flow_run.parameters["parameters"])
    return f"{parameters.job}-{parameters.to_request(_scheduled()).run_date}"


@flow(name="nightly", flow_run_name=run_name, persist_result=False, validate_parameters=True)
def nightly(parameters: NightlyParameters) -> dict[str, Any]:
    """Answer all requests of a date once, and publish them.

    Parameters
    ----------
    parameters
        What to run.

    Returns
    -------
    dict
        As `flows.night.run_night`.
    """
    log = get_run_logger()
    request = parameters.to_request(_scheduled())
    log.info("job %s, run date %s", request.job, request.run_date)
    with catching_up(parameters, request.run_date, deployment=deployment.id, steps=STEPS):
        result = run_night(request, steps=STEPS, reporter=_LogReporter(log))
    create_markdown_artifact(
        _markdown(result), key=f"night-{parameters.job}", description=str(request.run_date)
    )
    log.info("%s: %s", result["status"], result["output_file"])
    return result


def _scheduled() -> datetime:
    """Return the time the run was scheduled for: unlike the present, a retry does not change it."""
    return flow_run.scheduled_start_time or datetime.now(UTC)


def _markdown(result: dict[str, Any]) -> str:
    lines = [f"# {result['job']}, {result['run_date']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows_of(result)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from flows.cli import main

    sys.exit(main(["run", *sys.argv[1:]], with_flow=True))
