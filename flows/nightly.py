"""The nightly flow: extract -> tokenize -> profile -> plan -> infer -> publish as Prefect tasks.

    python -m flows.nightly --job demo --source logs/ --store store/ --model model/ --run-date 2026-11-22

The order of the steps is that of `flows.run.sequence.run_night`; here they are tasks, so that each has its
state, log and time in Prefect. `flows.on_demand` runs the same for a person who gives the date.
"""

from __future__ import annotations

import runpy
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Crashed, Failed

from flows.dates.catch_up import catching_up
from flows.parameters.nightly import NightlyParameters
from flows.parameters.to_request import night_request
from flows.placement.prefect_pool import steps_on
from flows.run.failures import TOLD, UnexpectedError, describe
from flows.run.prefect_tasks import STEPS
from flows.run.sequence import run_night
from flows.views.artifacts import show_result
from flows.views.events import tell_candidate, tell_published
from flows.views.progress import FlowReporter
from flows.views.stage import share_tag, show_stage, stage_tag, stage_text
from tasks.base.accounting import ExitCode
from tasks.base.errors import ConfigurationError
from tasks.infer.placement.contract import ComputeCrashedError
from tasks.infer.progress import StoppedError

if TYPE_CHECKING:
    from datetime import date

    from prefect.client.schemas.objects import State


def run_name() -> str:
    """Return `{job}-{run_date}`, the name of the flow run; `{job}` where no date can be told yet."""
    given = flow_run.parameters["parameters"]
    parameters = given if isinstance(given, NightlyParameters) else NightlyParameters.model_validate(given)
    try:
        return f"{parameters.job}-{parameters.resolve_date(scheduled())}"
    except ConfigurationError:
        # The flow itself says what is wrong, as its state.
        return parameters.job


@flow(name="nightly", flow_run_name=run_name, persist_result=False, validate_parameters=True)
def nightly(parameters: NightlyParameters) -> dict[str, Any]:
    """Answer all requests of a date once, and publish them.

    Parameters
    ----------
    parameters
        What to run. Without a date it is the day `lag_days` before the day this run was scheduled for.

    Returns
    -------
    dict
        As `flows.run.sequence.run_night`; the state is `CompletedWithErrors` if more rows were bad than
        allowed.
    """
    return run_as_flow(parameters)  # type: ignore[return-value]  # Prefect returns the state's data to a caller


def scheduled() -> datetime:
    """Return the time the run was scheduled for: unlike the present, a retry does not change it."""
    return flow_run.scheduled_start_time or datetime.now(UTC)


def run_as_flow(parameters: NightlyParameters) -> State[dict[str, Any]]:
    """Run a night inside the present flow run and return the state to end that in.

    Raises
    ------
    Exception
        As `flows.run.sequence.run_night`; what is not told there becomes an `UnexpectedError`.
    """
    log = get_run_logger()
    try:
        request = night_request(parameters, scheduled())
        log.info("job %s, run date %s", request.job, request.run_date)
        keep_date(parameters, request.run_date)
        if parameters.compute_on is None:
            steps, reporter = STEPS, FlowReporter(log, request.job)
        else:
            steps = steps_on(parameters)
            reporter = FlowReporter(log, request.job, f"waits for {parameters.compute_on}")
        with catching_up(parameters, request.run_date, deployment=deployment.id, steps=steps):
            result = run_night(request, steps=steps, reporter=reporter)
            tell_published(result)
            tell_candidate(result)
    except ComputeCrashedError as error:
        # As if it had died itself: what starts crashed runs again starts this one.
        return Crashed(message=str(error), data=error)
    except StoppedError as error:
        return Failed(name="Stopped", message=str(error), data=error)
    except (*TOLD, UnexpectedError):
        raise
    except Exception as error:  # noqa: BLE001 - Prefect would write the text of any error into its log
        raise UnexpectedError(describe(error)) from None
    show_result(result, log)
    stage = result.get("canary")
    if stage is not None:
        show_stage(stage_tag(stage), log)
    elif parameters.canary is not None:
        show_stage(share_tag(parameters.canary), log)
    log.info("%s: %s", result["status"], result["output_file"])
    with_errors = result["exit_code"] == ExitCode.COMPLETED_WITH_ERRORS
    name = "CompletedWithErrors" if with_errors else "Completed"
    errors = f"{result['errors']:,} error{'' if result['errors'] == 1 else 's'}"
    message = f"{result['outputs']:,} of {result['requests']:,} requests answered, {errors}"
    if stage is not None:
        message += f"; {stage_text(stage)}"
    return Completed(name=name, message=message, data=result)


def keep_date(parameters: NightlyParameters, run_date: date | None) -> None:
    """Write the date that was resolved into the flow run's parameters.

    So it is seen there, and a copy of the run that somebody starts on another day is for the same date.
    """
    if parameters.run_date is not None or run_date is None or flow_run.id is None:
        return
    values = parameters.model_dump(mode="json", exclude_unset=True) | {"run_date": run_date.isoformat()}
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), parameters={"parameters": values})
    except httpx.HTTPError as error:
        get_run_logger().warning("the date is not in the run's parameters: %s", type(error).__name__)


if __name__ == "__main__":
    # The command line is above the flows and not imported by them: it is run, as `python -m flows` does.
    sys.argv[1:1] = ["run", "--as-flow"]
    runpy.run_module("flows", run_name="__main__", alter_sys=True)
