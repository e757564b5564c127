"""The flow that starts a crashed run again, for the same date, at most twice.

An automation starts it with the id of the crashed run. How often a run was started again is kept in the tags
of its successors, so that nothing else has to be remembered; a key makes each of them unique.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID  # noqa: TC003 - Prefect reads the annotation when the module runs

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.events import emit_event

from flows.dates.flow_runs import RERUN_TAG as TAG
from flows.parameters.nightly import NightlyParameters

if TYPE_CHECKING:
    from datetime import datetime

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

RERUNS: Final = 2
EXHAUSTED: Final = "nightblend.recovery.exhausted"
_DATED: Final = ("nightly", "on-demand")


@flow(name="recover", persist_result=False)
def recover(flow_run_id: UUID) -> str:
    """Start a crashed run again, or say that this was done often enough.

    Parameters
    ----------
    flow_run_id
        The run that crashed.

    Returns
    -------
    str
        What was done, in a sentence.
    """
    with get_client(sync_client=True) as client:
        said = start_again(client, client.read_flow_run(flow_run_id))
    get_run_logger().info(said)
    return said


def start_again(client: SyncPrefectClient, crashed: FlowRun) -> str:
    """Start the successor of a crashed run; see `recover`."""
    if crashed.state is None or not crashed.state.is_crashed():
        return f"{crashed.name} is not crashed: nothing to do"
    if crashed.deployment_id is None:
        return f"{crashed.name} was not started from a deployment: run its command again"
    root = next((tag.removeprefix(TAG) for tag in crashed.tags if tag.startswith(TAG)), str(crashed.id))
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"{TAG}{root}"]))
    earlier = len(client.read_flow_runs(flow_run_filter=tagged))
    if earlier >= RERUNS:
        emit_event(
            event=EXHAUSTED,
            resource={
                "prefect.resource.id": f"prefect.flow-run.{crashed.id}",
                "prefect.resource.name": crashed.name,
            },
            payload={"reruns": earlier, "first_run": root},
        )
        return f"{crashed.name} crashed again after {earlier} reruns: not started again"
    flow_name = client.read_flow(crashed.flow_id).name
    parameters = crashed.parameters
    if flow_name in _DATED:
        parameters = with_date(parameters, crashed.expected_start_time)
    number = earlier + 1
    successor = client.create_flow_run_from_deployment(
        crashed.deployment_id,
        parameters=parameters,
        tags=[*(tag for tag in crashed.tags if not tag.startswith(TAG)), f"{TAG}{root}"],
        idempotency_key=f"recover:{root}:{number}",
        work_queue_name=crashed.work_queue_name,
    )
    return f"{crashed.name} crashed: started again as {successor.name} (rerun {number} of {RERUNS})"


def with_date(parameters: dict[str, Any], scheduled: datetime | None) -> dict[str, Any]:
    """Return the parameters of a night with the date written out that it was scheduled for."""
    given = parameters["parameters"]
    day = NightlyParameters.model_validate(given).resolve_date(scheduled)
    return {**parameters, "parameters": {**given, "run_date": day.isoformat()}}
