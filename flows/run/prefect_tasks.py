"""The steps of a night as Prefect tasks.

The run log is the only memory of a run: tasks cache nothing and persist nothing, and the hold on the log
passes from task to task inside one process. A failure of the store that may pass is tried again, later and
later; a wrong setting or bad input never is.
"""

from __future__ import annotations

import functools
import logging
import socket
import threading
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.context import ConcurrencyContext
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.runtime import task_run
from prefect.tasks import exponential_backoff

from flows.run.failures import TOLD, UnexpectedError, describe, stopped_by_full_disk
from flows.run.sequence import Steps
from tasks.attempt.extract_inputs import extract_inputs
from tasks.attempt.tokenize_inputs import tokenize_inputs
from tasks.infer.placement.here import infer_here
from tasks.night.night import Night
from tasks.night.request import SIDE, NightRequest
from tasks.plan.plan import plan
from tasks.profile.profile import profile
from tasks.publish.publish import publish
from tasks.store.contract import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prefect.client.schemas.objects import FlowRun, State, TaskRun
    from prefect.tasks import Task

    from tasks.infer.progress import InferProgress

log = logging.getLogger(__name__)

RETRIES: Final = 3
BRIEF_S: Final = 1.0
"""How long a slot's being given back is waited for."""
LOOK_S: Final = 1.0
"""Between two looks of a run that waits for a slot, in which it can be cancelled."""
LEASE_S: Final = 60.0
"""How long a slot of the limit outlives a run that was killed; the least that the server allows."""


def limit_name(pool: str | None) -> str:
    """Return the global concurrency limit that protects the devices of a work pool.

    Parameters
    ----------
    pool
        None for a run that no pool has started: the machine stands for it.
    """
    return f"gpu:{pool or socket.gethostname()}"


def current_pool() -> str | None:
    """Return the work pool of the present flow run, if it has one."""
    run = _current_run()
    return run.work_pool_name if run is not None else None


def current_queue() -> str | None:
    """Return the work queue of the present flow run, if it has one."""
    run = _current_run()
    return run.work_queue_name if run is not None else None


def _current_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context is not None else None


def infer_within_limit(
    night: Night, on_progress: Callable[[InferProgress], None] | None = None
) -> dict[str, Any]:
    """Run step `infer` with a slot of the pool's limit, held for just that long.

    Where the limit does not exist the engine's device lock alone keeps two runs off one GPU.
    """
    limit = limit_name(current_pool())
    return infer_here(night, on_progress, place=limit, limit=slot_of(limit))


@contextmanager
def slot_of(limit: str) -> Iterator[None]:
    """Hold a slot of a limit for the length of the block, as far as Prefect's API can be reached.

    A thread asks for it, keeps it and gives it back. So an API that goes away in the meantime, whose client
    tries again for a minute, is not waited for: the answers are there, and a slot that nobody keeps is free
    again after `LEASE_S`. Where the API cannot be asked for one, the engine's device lock alone keeps two
    runs off one GPU.
    """
    got, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            # Of its own: leases in the context of the task would be given back once more at its end.
            with ConcurrencyContext(), concurrency(limit, lease_duration=LEASE_S):
                got.set()
                done.wait()
        except (httpx.HTTPError, PrefectException) as error:
            what = "was not given back" if got.is_set() else "could not be asked for"
            log.warning("a slot of %s %s (%s); the night goes on", limit, what, type(error).__name__)
        finally:
            got.set()

    thread = threading.Thread(target=copy_context().run, args=(hold,), name="gpu-slot", daemon=True)
    thread.start()
    try:
        while not got.wait(LOOK_S):
            pass
        yield
    finally:
        done.set()
        thread.join(BRIEF_S)


def told(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return `step` with errors whose text could quote a prompt replaced by ones whose text cannot."""

    @functools.wraps(step)
    def run(*arguments: object) -> Any:  # noqa: ANN401 - whatever the step returns
        try:
            return step(*arguments)
        except Exception as error:
            # Prefect would write the text of any error into its log.
            full = stopped_by_full_disk(error)
            if full is None and isinstance(error, TOLD):
                raise
            raise (full or UnexpectedError(describe(error))) from None

    return run


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell whether trying again can help: the store failed for a time, and nothing else did."""
    return isinstance(state.data, StoreUnavailableError)


def name_of(step: str, given: Mapping[str, Any]) -> str:
    """Return the name of a step's task: with a side of the night, such as its candidate, that of the side."""
    for value in given.values():
        if isinstance(value, NightRequest):
            return step if value.side is None else f"{value.side.label}: {step}"
        if isinstance(value, Night):
            side = str(value.attempt.params.get(SIDE, "")).partition(",")[0]
            return f"{side}: {step}" if side else step
    return step


def as_task(name: str, step: Callable[..., Any]) -> Task[..., Any]:
    """Return a step as a task of that name."""
    return task(
        name=name,
        task_run_name=lambda: name_of(name, task_run.parameters),
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(backoff_factor=5),
        retry_jitter_factor=0.5,
        retry_condition_fn=may_pass,
    )(told(step))


STEPS = Steps(
    extract=as_task("extract", extract_inputs),
    tokenize=as_task("tokenize", tokenize_inputs),
    profile=as_task("profile", profile),
    plan=as_task("plan", plan),
    infer=as_task("infer", infer_within_limit),
    publish=as_task("publish", publish),
)
