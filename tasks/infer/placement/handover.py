"""Step infer on another machine: a run is handed over to it, and taken back to be published.

The process that has prepared the run keeps its hold until the other one claims in its place
(`RunLog.hold_for`), so a run that waits for a GPU has an owner all the time, and whoever comes too late is
refused. Nothing crosses but `Handover`: requests, plan and answers are in the run directory, what was done is
in its log. Both sides belong to one attempt; whichever holds the run when it fails writes down how it ended.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from engine import ANSWER_VERSION
from tasks.attempt.extract_inputs import answers_identity
from tasks.base.errors import ConfigurationError
from tasks.base.identity import model_digest, reuse_key
from tasks.infer.placement.contract import (
    ComputeCrashedError,
    ComputeEnd,
    ComputeFailedError,
    ComputeRun,
    Handover,
)
from tasks.infer.progress import InferProgress, StoppedError, at_risk
from tasks.night.model import find_model
from tasks.night.night import Night
from tasks.night.request import ORIGIN, RETRY_OF
from tasks.profile.tokenizer import load_tokenizer
from tasks.runlog.log import HANDED_EPOCH, NotHandedOverError, RunLog, StaleWriterError, is_live
from tasks.runlog.places import run_prefix
from tasks.runlog.records import Claim
from tasks.store.contract import StoreUnavailableError
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.night.request import NightRequest
    from tasks.runlog.state import RunState

log = logging.getLogger(__name__)

POLL_S: Final = 5.0
"""Between two looks at a run that computes elsewhere."""


# ---- the side that computes --------------------------------------------------------------------------------


@contextmanager
def open_handed(
    request: NightRequest, handover: Handover, scratch: Path, params: dict[str, Any] | None = None
) -> Iterator[Night]:
    """Hold a run that is handed over, for the length of the block; see `RunLog.hold_for` for its end.

    Everything that can be wrong with this machine is found before the run is claimed, so that the other side,
    which still holds it then, writes it down.

    Parameters
    ----------
    request
        The night as the other side was asked for it, its date given.
    params
        Kept in the claim.

    Raises
    ------
    NotHandedOverError
        If the run is not, or no longer, handed over.
    ConfigurationError
        If the model or the program here would give other answers.
    """
    if request.run_date is None:
        raise ConfigurationError("--run-date", "is missing", "Give the date of the run")
    settings = request.settings
    store = open_store(request.store_uri)
    run_log = RunLog(
        store,
        run_prefix(request.job, request.run_date.isoformat(), handover.run_key),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
    )
    state = run_log.refresh()
    attempt = state.attempt
    if (
        state.epoch != handover.epoch
        or state.holder is None
        or attempt is None
        or attempt.id != handover.attempt
    ):
        raise NotHandedOverError(
            f"{run_log.prefix} is no longer handed over: the night it was for has ended, or begun anew"
        )
    store.probe()
    model_dir = find_model(request.model)
    tokenizer = load_tokenizer(str(model_dir), run_date=request.run_date)
    retry_of = str(attempt.params.get(RETRY_OF, ""))
    identity = answers_identity(
        request, request.run_date, model_digest(model_dir), tokenizer, retry_of=retry_of
    )
    _check_answers(state, request.model, identity, attempt.params.get("reuse_key"))
    with run_log.hold_for(handover.epoch, params):
        yield Night(
            job=request.job,
            run_date=request.run_date,
            run_key=handover.run_key,
            store=store,
            log=run_log,
            attempt=attempt,
            model_dir=model_dir,
            scratch=scratch,
            settings=settings,
        )


def _check_answers(state: RunState, model: str, identity: dict[str, Any], prepared: str | None) -> None:
    origin = state.steps[ORIGIN].results
    if origin["answer_version"] != ANSWER_VERSION:
        raise ConfigurationError(
            "--compute-on",
            f"the engine there has answer version {ANSWER_VERSION}, the run was prepared for "
            f"{origin['answer_version']}",
            "Install the same version of Nightblend where runs are prepared and where they compute",
        )
    if origin["model"] != identity["model"]:
        raise ConfigurationError(
            "--model",
            f"{model} holds other files where the run computes than where it was prepared",
            "Give both machines the same model",
        )
    if prepared != reuse_key(**identity):
        raise ConfigurationError(
            "--compute-on", "the run was prepared with other settings", "Start the night anew"
        )


# ---- the side that prepares and publishes ------------------------------------------------------------------


def infer_elsewhere(
    night: Night,
    start: Callable[[Handover], ComputeRun],
    on_progress: Callable[[InferProgress], None] | None = None,
    *,
    poll_s: float = POLL_S,
) -> dict[str, Any]:
    """Have step infer done elsewhere, and hold the run again afterwards.

    Parameters
    ----------
    start
        Starts what computes. Called again with an equal handover it returns what was started then.
    on_progress
        Is told of durable answers, of which `output_tokens` are not known.

    Returns
    -------
    dict
        The results of step `infer`, as the other side has recorded them.

    Raises
    ------
    ComputeFailedError
        If it failed: a wrong setting there, or an error of the engine.
    ComputeCrashedError
        If it died.
    StoppedError
        If it was stopped or cancelled, or the run was asked to stop.
    StaleWriterError
        If another process has taken the run over.
    """
    with night.log.handing_over() as epoch:
        run = start(Handover(night.run_key, night.attempt.id, epoch))
        watched = RunLog(night.store, night.log.prefix, lease_s=night.settings.lease_s)
        with _cancelled_with(run, watched, epoch):
            end = _wait(night, run, watched, epoch, on_progress, poll_s)
        state = watched.state
        if state.attempt is None or state.attempt.id != night.attempt.id:
            # Another night of the same run: it has ended this attempt.
            raise StaleWriterError(f"{night.log.prefix} was taken over while it computed as {run.name}")
        ended = state.endings.get(night.attempt.id)
        if ended is not None:
            # Not taken back: a claim would hide who asked it to stop, which a backfill wants to know.
            said = ended.summary.get("message") or f"ended as {ended.summary.get('reason', ended.status)}"
            raise StoppedError(said) if ended.status == "stopped" else ComputeFailedError(said)
        night.log.take_back()
    step = state.steps.get("infer")
    if step is not None:
        return step.results
    kind, message = (end.kind, end.message) if end is not None else ("failed", "")
    said = f"{run.name}: {message}" if message else run.name
    if kind == "crashed":
        raise ComputeCrashedError(f"what computed has died, {said}; run it again to go on")
    if kind == "cancelled":
        raise StoppedError(f"computing was cancelled, {said}; run it again to go on")
    raise ComputeFailedError(said if kind == "failed" else f"{said}: it has not answered everything")


def wait_for_computing(
    run_log: RunLog, find: Callable[[dict[str, Any]], ComputeRun | None], *, poll_s: float = POLL_S
) -> bool:
    """Wait until a run is free that something still computes for although its night has ended.

    A night that is started again after a crash goes on with what was computed meanwhile.

    Parameters
    ----------
    find
        Returns what computes, by the parameters of its claim; None if the night it computes for goes on, or
        it is nothing of that kind.

    Returns
    -------
    bool
        Whether there was something to wait for.
    """
    if not is_live(run_log):
        return False
    params = _claim_params(run_log)
    run = find(params) if HANDED_EPOCH in params else None
    if run is None:
        return False
    with _cancelled_with(run, run_log, params[HANDED_EPOCH]):
        while is_live(run_log) and run.ended() is None:
            time.sleep(poll_s)
    return True


def _claim_params(run_log: RunLog) -> dict[str, Any]:
    holder = run_log.state.holder
    return holder.body.params if holder is not None and isinstance(holder.body, Claim) else {}


def _wait(
    night: Night,
    run: ComputeRun,
    watched: RunLog,
    epoch: int,
    on_progress: Callable[[InferProgress], None] | None,
    poll_s: float,
) -> ComputeEnd | None:
    """Wait until the log says that step infer, or the attempt, is over, or that it will never say so."""
    begin = time.monotonic()
    tokenized = night.log.state.steps["tokenize"].results
    total, refused = tokenized["requests"], tokenized["refused"]
    while True:
        # Before the log is read: what it has written until its end is seen then.
        end = run.ended()
        try:
            state = watched.refresh()
        except StoreUnavailableError as error:
            log.warning("the log of the run cannot be read just now: %s", error)
            time.sleep(poll_s)
            continue
        attempt = state.attempt
        over = "infer" in state.steps or night.attempt.id in state.endings
        if over or end is not None or attempt is None or attempt.id != night.attempt.id:
            return end
        if state.epoch == epoch and state.stop_requested is not None:
            raise StoppedError("the run was asked to stop; run it again to go on")
        if on_progress is not None:
            # Of the error rows those of step infer: the others were there before it.
            ended = sum(part.count for kind in ("outputs", "errors") for part in state.parts_of(kind))
            risks = tuple(at_risk(night.run_date.isoformat(), one) for one in state.at_risk.values())
            passed = time.monotonic() - begin
            on_progress(InferProgress(ended - refused, total, None, passed, at_risk=risks))
        time.sleep(poll_s)


@contextmanager
def _cancelled_with(run: ComputeRun, watched: RunLog, epoch: int) -> Iterator[None]:
    """Stop what computes if the block is ended from outside: by a cancelled night nothing computes on.

    It is asked in the run's log, too: where Prefect is down that is enough.
    """
    try:
        yield
    except BaseException:
        run.cancel()
        try:
            watched.refresh()
            if _claim_params(watched).get(HANDED_EPOCH) == epoch:
                watched.request_stop("the night that it computes for was stopped")
        except StoreUnavailableError as error:
            log.warning("%s could not be asked to stop: %s", run.name, error)
        raise
