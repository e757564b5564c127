"""Deployments served from one process, for a machine without a work pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.backfill import backfill
from flows.deploy.automations import RERUN_TAG, TAG, install
from flows.nightly import nightly
from flows.on_demand import on_demand
from flows.recover import recover
from flows.run.prefect_tasks import limit_name
from flows.watch import watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import time

    from prefect.deployments.runner import RunnerDeployment

    from flows.parameters.nightly import NightlyParameters

AT_A_TIME = 4
"""Flow runs of one process; how many compute is the limit's matter."""


def deployments(parameters: NightlyParameters, cron: str, ready_by: time) -> list[RunnerDeployment]:
    """Return what is served: the deployments of `infra/prefect.yaml`, for the parameters of one site.

    Parameters
    ----------
    cron
        When the nightly starts, in the site's timezone.
    ready_by
        Time of day at which it has to be published there.

    Raises
    ------
    ValueError
        If `cron` is no cron schedule.
    """
    site = {"parameters": parameters.model_dump(mode="json", exclude_unset=True)}
    common: dict[str, Any] = {
        "entrypoint_type": EntrypointType.MODULE_PATH,
        "tags": [TAG, RERUN_TAG],
    }
    found = [
        nightly.to_deployment(
            "nightly",
            schedule=Cron(cron, timezone=parameters.timezone),
            parameters=site,
            concurrency_limit=1,
            **common,
        ),
        on_demand.to_deployment("on-demand", parameters=site, **common),
        nightly.to_deployment("dates", parameters=site, **common),
        backfill.to_deployment(
            "backfill", parameters={"parameters": {"deployment": "nightly/dates"}}, **common
        ),
        watch.to_deployment(
            "watch",
            schedule=Cron(f"{ready_by.minute} {ready_by.hour} * * *", timezone=parameters.timezone),
            parameters=site,
            entrypoint_type=EntrypointType.MODULE_PATH,
            tags=[TAG],
        ),
        recover.to_deployment("recover", entrypoint_type=EntrypointType.MODULE_PATH),
    ]
    return cast("list[RunnerDeployment]", found)


def prepare(served: list[RunnerDeployment]) -> Iterator[str]:
    """Create the deployments, the limit of this machine and the automations, and say so, a line each."""
    with get_client(sync_client=True) as client:
        limit = limit_name(None)
        client.upsert_global_concurrency_limit_by_name(limit, 1)
        yield f"limit {limit}: 1 at a time"
        # The automations name a deployment, so these come first.
        for deployment in served:
            deployment.apply()
            yield f"deployment {deployment.full_name}"
        yield from install(client)


def run_served(served: list[RunnerDeployment]) -> None:
    """Run what is due until the process is stopped."""
    serve(*served, limit=AT_A_TIME)
