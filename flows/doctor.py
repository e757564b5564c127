"""Looks at everything a night needs, Prefect included, which may be down or not used at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tasks.doctor import FAILED, OK, SKIPPED, WARNING, Check, check_night
from tasks.errors import bounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.doctor import Asked


def examine(asked: Asked, pool: str | None = None) -> Iterator[Check]:
    """Return what is found, check by check; `pool` is a work pool that must have a worker."""
    yield from check_night(asked)
    yield check_prefect(pool)


def check_prefect(pool: str | None) -> Check:
    """Look whether the server of `PREFECT_API_URL` answers, and whether a worker is there for a pool."""
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check("prefect", SKIPPED, "PREFECT_API_URL is not set: nights run without it")
    import httpx
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    try:
        # One try each: a doctor that waits for minutes is of no use.
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": 10.0}) as client,
        ):
            failure = client.api_healthcheck()
            if failure is not None:
                raise failure
            version = client.api_version()
            text = f"{url} answers, version {version}"
            if version != prefect.__version__:
                remedy = "Run server and workers at one version"
                return Check("prefect", WARNING, f"{text}; this is {prefect.__version__}", remedy)
            if pool is None:
                return Check("prefect", OK, text)
            answer = client.request(
                "POST",
                "/work_pools/{work_pool_name}/workers/filter",
                path_params={"work_pool_name": pool},
                json={},
            )
            online = [worker["name"] for worker in answer.json() if worker["status"] == "ONLINE"]
    except ObjectNotFound:
        return Check("prefect", FAILED, f"there is no work pool {pool}", "See `prefect work-pool ls`")
    except (httpx.HTTPError, PrefectHTTPStatusError, OSError, RuntimeError) as error:
        said = bounded(str(error).partition("\n")[0] or type(error).__name__, 160)
        return Check("prefect", FAILED, f"{url}: {said}", "Start it, or correct PREFECT_API_URL")
    if not online:
        remedy = f"Start one: `prefect worker start --pool {pool}`"
        return Check("prefect", FAILED, f"{text}; no worker of pool {pool} is online", remedy)
    return Check("prefect", OK, f"{text}; {len(online)} workers of pool {pool} are online")
