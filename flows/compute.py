"""The flow that has a GPU: step infer of a night that was prepared, and will be published, elsewhere.

A night with `compute_on` starts it (`flows.placement.prefect_pool`) and waits. Nothing is published here, no
source is read and no catalog is needed, so a machine with a GPU is held for computing alone.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.parameters.nightly import NightlyParameters  # noqa: TC001 - Prefect reads the annotation when it runs
from flows.parameters.to_request import night_request
from flows.placement.prefect_pool import FLOW_RUN
from flows.run.aside import Aside
from flows.run.failures import TOLD, UnexpectedError, describe
from flows.run.prefect_tasks import STEPS, told
from flows.run.reporter import Silent
from flows.run.sequence import recorded_attempt
from flows.views.progress import FlowReporter
from tasks.infer.placement.contract import Handover  # noqa: TC001 - Prefect reads the annotation, too
from tasks.infer.placement.handover import open_handed
from tasks.infer.progress import StoppedError
from tasks.plan.plan import take_plan
from tasks.runlog.log import NotHandedOverError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.run.reporter import Reporter
    from flows.run.sequence import Steps

FAILED = "ComputeFailed"
"""Not `Failed`: the night that waits for it fails too, and people need to be told once."""


@flow(name="compute", persist_result=False, validate_parameters=True)
def compute(parameters: NightlyParameters, handover: Handover) -> dict[str, Any]:
    """Answer the requests of a night that another flow run has prepared and waits for.

    Parameters
    ----------
    parameters
        Those of the night, its date given.
    handover
        Which run it is, and the right to hold it.

    Returns
    -------
    dict
        `requests, output_tokens, seconds` of step `infer`. A night that no longer waits makes the state
        `Cancelled`, without anything having been computed.
    """
    return _run(parameters, handover)  # type: ignore[return-value]  # Prefect returns the state's data to a caller


def compute_handed(
    parameters: NightlyParameters,
    handover: Handover,
    *,
    steps: Steps,
    reporter: Reporter | None = None,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run step infer of a run that is handed over; how the attempt ended is written down if it fails.

    Parameters
    ----------
    steps
        Of which `infer` is run.
    params
        Kept in the claim.

    Returns
    -------
    dict
        The results of step `infer`.

    Raises
    ------
    Exception
        As `tasks.infer.placement.handover.open_handed` and step `infer`.
    """
    with (
        TemporaryDirectory(prefix="nightblend-") as folder,
        Aside(reporter or Silent()) as heard,
        open_handed(night_request(parameters), handover, Path(folder), params) as night,
        recorded_attempt(night),
    ):
        told(take_plan)(night)
        return steps.reported_to(heard).infer(night, heard.answered)


def _run(parameters: NightlyParameters, handover: Handover) -> State[dict[str, Any]]:
    log = get_run_logger()
    log.info("job %s, run date %s, run %s", parameters.job, parameters.run_date, handover.run_key)
    params = {FLOW_RUN: str(flow_run.id)}
    reporter = FlowReporter(log, parameters.job)
    try:
        results = compute_handed(parameters, handover, steps=STEPS, reporter=reporter, params=params)
    except NotHandedOverError as error:
        return Cancelled(message=describe(error))
    except StoppedError as error:
        return Failed(name="Stopped", message=describe(error), data=error)
    except (*TOLD, UnexpectedError) as error:
        return Failed(name=FAILED, message=describe(error), data=error)
    except Exception as error:  # noqa: BLE001 - Prefect would write the text of any error into its log
        hidden = UnexpectedError(describe(error))
        return Failed(name=FAILED, message=str(hidden), data=hidden)
    kept = {name: results[name] for name in ("computed_answers", "output_tokens", "seconds")}
    said = f"{kept['computed_answers']:,} answers, {kept['output_tokens']:,} output tokens"
    return Completed(message=said, data=kept)
