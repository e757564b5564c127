"""Step infer as a flow run of another deployment, in the pool that has the GPUs; the night waits for it.

The run's log decides what came of it; Prefect starts and cancels it, and tells of its end where the log
cannot.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run
from prefect.states import Cancelling
from prefect.utilities.urls import url_for

from flows.dates.flow_runs import ASKED_TAG, find_deployment, queue_of, run_name
from flows.run.prefect_tasks import STEPS, as_task, current_pool, current_queue
from tasks.attempt.extract_inputs import extract_inputs
from tasks.base.errors import ConfigurationError
from tasks.infer.placement.contract import ComputeEnd
from tasks.infer.placement.handover import infer_elsewhere, wait_for_computing
from tasks.infer.progress import StoppedError
from tasks.runlog.log import RunLog
from tasks.runlog.places import run_prefix

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

    from flows.parameters.nightly import NightlyParameters
    from flows.run.sequence import Steps
    from tasks.attempt.extract_inputs import ExtractedInputs
    from tasks.infer.placement.contract import Handover
    from tasks.night.night import Night
    from tasks.night.request import NightRequest

log = logging.getLogger(__name__)

OPTION: Final = "--compute-on"
RUN_TAG: Final = "compute-of:"
FLOW_RUN: Final = "flow_run"
"""In the parameters of a claim: the flow run that computes."""
_UNDER_WAY: Final = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


def steps_on(parameters: NightlyParameters) -> Steps:
    """Return the steps of a night as tasks, step infer as a flow run of `parameters.compute_on`.

    Raises
    ------
    ConfigurationError
        If there is no such deployment, or this flow run has the only place there.
    """
    computing = _Computing.of(parameters)

    def infer(night: Night, on_progress: Any = None) -> dict[str, Any]:  # noqa: ANN401 - a callable or None
        return infer_elsewhere(night, partial(computing.start, night), on_progress)

    return replace(STEPS, extract=as_task("extract", _prepare_after_computing), infer=as_task("infer", infer))


def _prepare_after_computing(request: NightRequest, scratch: Path) -> ExtractedInputs:
    """Prepare a night, and wait for what an earlier flow run of it has left computing."""
    prepared = extract_inputs(request, scratch)
    prefix = run_prefix(request.job, prepared.run_date.isoformat(), prepared.run_key)
    wait_for_computing(RunLog(prepared.store, prefix, lease_s=request.settings.lease_s), _left_behind)
    return prepared


@dataclass(frozen=True, slots=True)
class _Computing:
    """Where step infer of a night is done.

    Attributes
    ----------
    deployment
        Of `flows.compute.compute`.
    asked
        The night.
    queue
        Of the deployment's pool; None is the deployment's own.
    asked_by
        The flow run that waits.
    """

    deployment: DeploymentResponse
    asked: NightlyParameters
    queue: str | None
    asked_by: str

    @classmethod
    def of(cls, asked: NightlyParameters) -> _Computing:
        with get_client(sync_client=True) as client:
            found = find_deployment(client, str(asked.compute_on), OPTION)
            # In the pool with the GPUs, too, a past date goes after a night.
            queue = queue_of(client, found, current_queue())
            _check_room(client, found, queue)
        return cls(found, asked.with_preset(), queue, str(flow_run.id))

    def start(self, night: Night, handover: Handover) -> _ComputeRun:
        """Start the flow run, or find the one that was started for the same handover."""
        tag = f"{RUN_TAG}{night.job}:{night.run_key}"
        key = f"compute:{handover.run_key}:{handover.attempt}:{handover.epoch}"
        try:
            with get_client(sync_client=True) as client:
                run = client.create_flow_run_from_deployment(
                    self.deployment.id,
                    parameters={"parameters": self._values(night), "handover": asdict(handover)},
                    name=f"{run_name(night.job, night.run_date)}-compute",
                    idempotency_key=key,
                    work_queue_name=self.queue,
                    tags=["nightblend", tag, f"{ASKED_TAG}{self.asked_by}"],
                )
                _cancel_others(client, tag, run.id)
        except (httpx.HTTPError, PrefectException) as error:
            raise StoppedError(
                f"{self.asked.compute_on} was not started ({type(error).__name__}); run it again to go on"
            ) from None
        _show_link(night, run)
        pool = self.deployment.work_pool_name
        get_run_logger().info("step infer is flow run %s in pool %s", run.name, pool)
        return _ComputeRun(run)

    def _values(self, night: Night) -> dict[str, Any]:
        once = {"compute_on", "rerun", "take_over", "force"}
        values = self.asked.model_dump(mode="json", exclude_defaults=True, exclude=once)
        return values | {
            "run_date": night.run_date.isoformat(),
            # As they are in the run's key; there `auto` could be something else.
            "device": night.settings.device,
            "dtype": night.settings.dtype,
            "publish": night.settings.publish,
            "give_way": night.settings.gives_way,
            "catch_up_days": 0,
            # It publishes nothing; an attempt that fails there gets its row from its successor.
            "catalog": "none",
        }


@dataclass(frozen=True, slots=True)
class _ComputeRun:
    """A flow run of `flows.compute.compute`."""

    run: FlowRun

    @property
    def name(self) -> str:
        return f"flow run {self.run.name}"

    def ended(self) -> ComputeEnd | None:
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(self.run.id).state
        except ObjectNotFound:
            return ComputeEnd("cancelled", "it was deleted")
        except (httpx.HTTPError, PrefectException) as error:
            log.warning("cannot look at %s just now: %s", self.name, type(error).__name__)
            return None
        if state is None or not state.is_final():
            return None
        said = state.message or ""
        if state.is_completed():
            return ComputeEnd("completed", said)
        if state.is_crashed():
            return ComputeEnd("crashed", said)
        return ComputeEnd("cancelled" if state.is_cancelled() or state.name == "Stopped" else "failed", said)

    def cancel(self) -> None:
        try:
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(self.run.id, Cancelling())
        except (httpx.HTTPError, PrefectException) as error:
            log.warning("%s was not cancelled: %s", self.name, type(error).__name__)


def _left_behind(params: dict[str, Any]) -> _ComputeRun | None:
    """Return the flow run that has claimed a run, if the flow run that waited for it has ended."""
    if FLOW_RUN not in params:
        return None
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(params[FLOW_RUN]))
            asked_by = next(tag.removeprefix(ASKED_TAG) for tag in run.tags if tag.startswith(ASKED_TAG))
            waits = client.read_flow_run(UUID(asked_by)).state
        except (ObjectNotFound, StopIteration, ValueError):
            return None
    if waits is not None and not waits.is_final():
        return None
    get_run_logger().info("waits for flow run %s, which an earlier run of the date has started", run.name)
    return _ComputeRun(run)


def has_one_place(client: SyncPrefectClient, pool: str, queue: str | None) -> str | None:
    """Say what in a pool is limited to one flow run, the pool or its queue; None if neither is."""
    if client.read_work_pool(pool).concurrency_limit == 1:
        return f"pool {pool} takes one run at a time"
    if queue is not None and client.read_work_queue_by_name(queue, pool).concurrency_limit == 1:
        return f"queue {queue} takes one run at a time"
    return None


def _check_room(client: SyncPrefectClient, deployment: DeploymentResponse, queue: str | None) -> None:
    """Refuse a night that would wait for itself: it has the place of what it is about to start."""
    pool = current_pool()
    if pool is None or pool != deployment.work_pool_name:
        return
    same = current_queue() if current_queue() == (queue or deployment.work_queue_name) else None
    full = has_one_place(client, pool, same)
    if full is not None:
        raise ConfigurationError(
            OPTION, f"{full}, and this night is the one", "Raise its limit, or run nights in another pool"
        )
    # How many runs a worker takes is known to nobody else.
    get_run_logger().warning(
        "this night and %s are both runs in pool %s: a worker with --limit 1 never starts the second",
        deployment.name,
        pool,
    )


def _cancel_others(client: SyncPrefectClient, tag: str, own: UUID) -> None:
    """Cancel what an earlier flow run of the night has started and nobody waits for: it would be refused."""
    under_way = FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY))
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]), state=under_way)
    for run in client.read_flow_runs(flow_run_filter=wanted):
        if run.id != own:
            client.set_flow_run_state(run.id, Cancelling())


def _show_link(night: Night, run: FlowRun) -> None:
    link = url_for("flow-run", run.id) or f"/runs/flow-run/{run.id}"
    try:
        create_link_artifact(
            link,
            link_text=run.name,
            key=f"compute-{night.job}",
            description="Here requests are answered.",
        )
    except Exception as error:  # noqa: BLE001 - whatever ails the API, the night goes on
        log.warning("the flow run that computes could not be shown (%s)", type(error).__name__)
