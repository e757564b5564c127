"""Makes a Prefect server ready for nights: the one place that creates pools, queues, limits and automations.

Everything is created if it is not there and brought up to date if it is, so it can be run again at any time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from flows.deploy.plugin import SAFE_ENVIRONMENT
from flows.deploy.pools import base_job_template
from flows.run.prefect_tasks import limit_name
from tasks.base.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prefect.client.orchestration import SyncPrefectClient

QUEUES: Final = {
    "urgent": (1, "Runs that a person waits for."),
    "nightly": (2, "The nights."),
    "backfill": (3, "Past dates, when nothing else waits."),
}
"""Name -> priority (1 goes first) and what it is for."""


@dataclass(frozen=True)
class PoolPlan:
    """A work pool as it is to be; see `flows.deploy.pools.base_job_template`."""

    name: str
    kind: str
    gpus: int = 1
    image: str | None = None
    python: str | None = None

    @property
    def limit(self) -> str:
        """Name of the global concurrency limit that its runs hold while they compute."""
        return limit_name(self.name)


def prepare_pool(client: SyncPrefectClient, plan: PoolPlan, slots: int = 1) -> Iterator[str]:
    """Create a pool, its queues and its limit, and say what was done, a line each.

    Parameters
    ----------
    slots
        Runs that may compute at a time; for a machine or cluster with several GPUs of its own for each.
    """
    template = base_job_template(plan.kind, plan.gpus, plan.image, plan.python)
    text = "Runs of Nightblend" + (" that compute." if plan.gpus else ": reading and publishing.")
    try:
        client.read_work_pool(plan.name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=plan.name, type=plan.kind, base_job_template=template, description=text)
        )
        yield f"work pool {plan.name} ({plan.kind}) created"
    else:
        client.update_work_pool(plan.name, WorkPoolUpdate(base_job_template=template, description=text))
        yield f"work pool {plan.name} brought up to date"
    for name, (priority, what) in QUEUES.items():
        try:
            found = client.read_work_queue_by_name(name, plan.name)
        except ObjectNotFound:
            client.create_work_queue(name, what, priority=priority, work_pool_name=plan.name)
            yield f"queue {name} created, priority {priority}"
        else:
            client.update_work_queue(found.id, priority=priority, description=what)
    if plan.gpus:
        client.upsert_global_concurrency_limit_by_name(plan.limit, slots)
        yield f"limit {plan.limit}: {slots} at a time"


def deploy_from(file: Path) -> None:
    """Create the deployments of a file, as `prefect --no-prompt deploy --all --prefect-file FILE` does.

    Raises
    ------
    ConfigurationError
        If Prefect refuses it; its own words are on stderr.
    """
    if not file.is_file():
        raise ConfigurationError("--prefect-file", f"there is no file {file}", "Name infra/prefect.yaml")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    environment = {**os.environ, **SAFE_ENVIRONMENT}
    done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)  # noqa: S603 - no shell
    if done.returncode:
        raise ConfigurationError("--prefect-file", f"{file} could not be deployed", "See the lines above")
