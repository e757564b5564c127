"""Looks at everything a night needs, Prefect included, which may be down or not used at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tasks.base.errors import ConfigurationError, bounded
from tasks.operations.doctor import FAILED, OK, SKIPPED, WARNING, Check, check_night

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefect.client.orchestration import SyncPrefectClient

    from tasks.operations.doctor import Asked

COMPUTES: Final = "flows.compute.compute"
"""Entrypoint of what computes for a night."""


def examine(asked: Asked, pool: str | None = None, compute_on: str | None = None) -> Iterator[Check]:
    """Return what is found, check by check.

    Parameters
    ----------
    pool
        The work pool of the nights, which must have a worker.
    compute_on
        The deployment that computes for them, if they do not compute themselves.
    """
    yield from check_night(asked)
    yield check_prefect(pool)
    if compute_on is not None:
        yield check_compute(compute_on, pool)


def check_prefect(pool: str | None) -> Check:
    """Look whether the server of `PREFECT_API_URL` answers, and whether a worker is there for a pool."""

    def look(client: SyncPrefectClient, url: str) -> Check:
        import prefect

        failure = client.api_healthcheck()
        if failure is not None:
            raise failure
        version = client.api_version()
        text = f"{url} answers, version {version}"
        if version != prefect.__version__:
            remedy = "Run server and workers at one version"
            return Check("prefect", WARNING, f"{text}; this is {prefect.__version__}", remedy)
        return Check("prefect", OK, text) if pool is None else _check_workers("prefect", client, pool, text)

    return _asked("prefect", look)


def check_compute(compute_on: str, pool: str | None) -> Check:
    """Look whether what computes for the nights of a pool is deployed, and has workers and a limit.

    Parameters
    ----------
    pool
        Of the nights; None if it is not known.
    """

    def look(client: SyncPrefectClient, _: str) -> Check:
        from prefect.exceptions import ObjectNotFound

        from flows.dates.flow_runs import find_deployment
        from flows.placement.prefect_pool import has_one_place
        from flows.run.prefect_tasks import limit_name

        found = find_deployment(client, compute_on, "--compute-on")
        if found.entrypoint != COMPUTES:
            remedy = "Name a deployment of flow compute"
            return Check("compute", FAILED, f"{compute_on} is {found.entrypoint}, not {COMPUTES}", remedy)
        own = found.work_pool_name
        if own is None:
            remedy = "Deploy it to one, as infra/prefect.yaml does"
            return Check("compute", FAILED, f"{compute_on} is in no work pool", remedy)
        text = f"{compute_on} is in pool {own}"
        if own == pool and (full := has_one_place(client, own, None)) is not None:
            remedy = "Raise its limit, or give the nights a pool of their own"
            return Check("compute", FAILED, f"{text}; {full}, so a night would wait for itself", remedy)
        checked = _check_workers("compute", client, own, text)
        if checked.outcome != OK:
            return checked
        if own == pool:
            remedy = "Start workers there without `--limit 1`, or give the nights a pool of their own"
            return Check("compute", WARNING, f"{checked.text}; nights run there, too", remedy)
        try:
            limit = client.read_global_concurrency_limit_by_name(limit_name(own))
        except ObjectNotFound:
            text = f"{checked.text}; there is no limit {limit_name(own)}"
            return Check("compute", WARNING, text, f"Make it: `nightblend deploy --pool {own}`")
        return Check("compute", OK, f"{checked.text}; limit {limit.name}: {limit.limit} at a time")

    return _asked("compute", look)


def _check_workers(name: str, client: SyncPrefectClient, pool: str, text: str) -> Check:
    """Look whether a pool has a worker; `text` is what was found before."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        return Check(name, FAILED, f"there is no work pool {pool}", "See `prefect work-pool ls`")
    workers = client.read_workers_for_work_pool(pool)
    online = sum(worker.status == WorkerStatus.ONLINE for worker in workers)
    if not online:
        remedy = f"Start one: `prefect worker start --pool {pool}`"
        return Check(name, FAILED, f"{text}; no worker of pool {pool} is online", remedy)
    there = "1 worker" if online == 1 else f"{online} workers"
    return Check(name, OK, f"{text}; {there} of pool {pool} online")


def _asked(name: str, look: Callable[[SyncPrefectClient, str], Check]) -> Check:
    """Ask the server of `PREFECT_API_URL`; what hinders that is a check, too."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check(name, SKIPPED, "PREFECT_API_URL is not set: nights run without it")
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with _client(url) as client:
            return look(client, url)
    except ConfigurationError as error:
        return Check(name, FAILED, f"{error.field}: {error.message}", error.remedy)
    except (httpx.HTTPError, PrefectHTTPStatusError, OSError, RuntimeError) as error:
        said = bounded(str(error).partition("\n")[0] or type(error).__name__, 160)
        return Check(name, FAILED, f"{url}: {said}", "Start it, or correct PREFECT_API_URL")


@contextmanager
def _client(url: str) -> Iterator[SyncPrefectClient]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    # One try each: a doctor that waits for minutes is of no use.
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(sync_client=True, httpx_settings={"timeout": 10.0}) as client,
    ):
        yield client
