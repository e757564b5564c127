"""Dates as flow runs of a deployment of the nightly: started once, found again, cancelled."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterTags,
)
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling
from pydantic import ValidationError

from flows.parameters.nightly import NightlyParameters
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import date
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

log = logging.getLogger(__name__)

RERUN_TAG: Final = "rerun-of:"
ASKED_TAG: Final = "asked-by:"
MOST_TRIES: Final = 100
"""Flow runs of one date in one backfill."""


def run_name(job: str, day: date) -> str:
    """Return the name of the flow run of a date."""
    return f"{job}-{day.isoformat()}"


@dataclass(frozen=True, slots=True)
class DateRuns:
    """Starts dates as flow runs of a deployment.

    Attributes
    ----------
    deployment
        Of `flows.nightly.nightly`.
    night
        The night to run for each date.
    asked_by
        Id of what asks: a date that it has asked for already is not started a second time, unless that run
        ended without success.
    queue
        Work queue for the runs; None takes that of the deployment.
    """

    deployment: DeploymentResponse
    night: NightlyParameters
    asked_by: str
    queue: str | None

    @classmethod
    def of(
        cls,
        deployment: str | UUID,
        asked_by: str,
        *,
        night: NightlyParameters | None = None,
        queue: str | None = None,
    ) -> DateRuns:
        """Look the deployment up; without `night` its own parameters say what to run.

        Raises
        ------
        ConfigurationError
            If there is none of that name, or its parameters are not those of a night.
        """
        with get_client(sync_client=True) as client:
            found = find_deployment(client, deployment, "--deployment")
            # Spelled out, so that a preset does not decide about what is asked for here.
            night = (night or _night_of(found)).with_preset()
            return cls(found, night, asked_by, queue_of(client, found, queue))

    def key(self, day: date, tries: int) -> str:
        """Return the idempotency key of a date after so many runs without success."""
        return f"{self.asked_by}:{self.night.job}:{day.isoformat()}:{tries}"

    def start(self, day: date, *, rerun: bool = False) -> FlowRun:
        """Return the flow run of a date: the one under way or done, else a new one."""
        tried = self._tried(day)
        if tried and not is_unsuccessful(tried[-1]):
            return tried[-1]
        if len(tried) == MOST_TRIES:
            raise ConfigurationError(
                "--backfill-id", f"{day} has failed {MOST_TRIES} times in it", "See to it, then give a new id"
            )
        return self._new(day, self.key(day, len(tried)), rerun=rerun)

    def is_under_way(self, day: date) -> bool:
        """Tell whether a date was started and has not ended."""
        tried = self._tried(day)
        return bool(tried) and not (tried[-1].state is not None and tried[-1].state.is_final())

    def _tried(self, day: date) -> list[FlowRun]:
        """Return the flow runs of a date in their order: all but the last ended without success."""
        keys = [self.key(day, tries) for tries in range(MOST_TRIES)]
        with get_client(sync_client=True) as client:
            wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
            found = client.read_flow_runs(flow_run_filter=wanted)
            known = {run.idempotency_key: _latest(client, run) for run in found}
        return [known[key] for key in keys if key in known]

    def read(self, run_id: UUID) -> FlowRun | None:
        """Return a flow run as it is now, or the last that was started in its place; None if deleted."""
        with get_client(sync_client=True) as client:
            try:
                return _latest(client, client.read_flow_run(run_id))
            except ObjectNotFound:
                return None

    def cancel(self, run_id: UUID) -> None:
        """Ask for a flow run to be cancelled."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Cancelling())

    def _new(self, day: date, key: str, *, rerun: bool) -> FlowRun:
        # Without what is default, so that the run has the defaults of the program that it is run by.
        values = self.night.model_dump(mode="json", exclude_defaults=True, exclude={"take_over", "force"})
        asked = {
            "run_date": day.isoformat(),
            "publish": True,
            "rerun": rerun,
            "give_way": True,
            "catch_up_days": 0,
        }
        # Not as a subflow: that would leave a task without an end for a run that lives on after this one.
        with get_client(sync_client=True) as client:
            return client.create_flow_run_from_deployment(
                self.deployment.id,
                parameters={"parameters": values | asked},
                name=run_name(self.night.job, day),
                idempotency_key=key,
                work_queue_name=self.queue,
                tags=["nightblend", f"{ASKED_TAG}{self.asked_by}"],
            )


def find_deployment(client: SyncPrefectClient, deployment: str | UUID, option: str) -> DeploymentResponse:
    """Return a deployment by its name or id, or raise `ConfigurationError` naming `option`."""
    try:
        if isinstance(deployment, str):
            return client.read_deployment_by_name(deployment)
        return client.read_deployment(deployment)
    except ObjectNotFound:
        raise ConfigurationError(
            option, f"there is no deployment {deployment}", "See `prefect deployment ls`"
        ) from None


def _night_of(deployment: DeploymentResponse) -> NightlyParameters:
    try:
        return NightlyParameters.model_validate((deployment.parameters or {}).get("parameters") or {})
    except ValidationError as error:
        field = ".".join(str(step) for step in error.errors()[0]["loc"])
        raise ConfigurationError(
            "--deployment",
            f"{deployment.name} has no parameters of a night that could be used ({field})",
            "Name a deployment of flows.nightly.nightly with job, source, store and model set",
        ) from None


def is_unsuccessful(run: FlowRun) -> bool:
    """Tell whether a flow run ended without success."""
    return run.state is not None and run.state.is_final() and not run.state.is_completed()


def _latest(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """Return what was started last in the place of a crashed run (`flows.recover`), else the run itself."""
    if run.state is None or not run.state.is_crashed():
        return run
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"{RERUN_TAG}{run.id}"]))
    return max([run, *client.read_flow_runs(flow_run_filter=tagged)], key=lambda found: str(found.created))


def queue_of(client: SyncPrefectClient, deployment: DeploymentResponse, queue: str | None) -> str | None:
    """Return the queue of that name if the pool of a deployment has it; None is the deployment's own."""
    if queue is None or deployment.work_pool_name is None:
        return None
    try:
        client.read_work_queue_by_name(queue, work_pool_name=deployment.work_pool_name)
    except ObjectNotFound:
        log.info("pool %s has no queue %s", deployment.work_pool_name, queue)
        return None
    return queue
