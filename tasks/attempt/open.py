"""Opens a night: holds its log, with an attempt of its own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.attempt.ended import end_killed, record_failed
from tasks.base.release import release
from tasks.night.fence import announce, check_first
from tasks.night.model import model_name
from tasks.night.night import Night
from tasks.night.request import ORIGIN, SIDE, NightRequest
from tasks.runlog.log import RunLog
from tasks.runlog.places import run_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.attempt.extract_inputs import ExtractedInputs


@contextmanager
def open_night(inputs: ExtractedInputs, request: NightRequest, scratch: Path) -> Iterator[Night]:
    """Hold the run for the length of the block, with a new attempt open.

    If the run is finished already and no rerun is asked for, nothing is claimed or opened:
    ``night.log.state.finished`` says so.

    Raises
    ------
    RunIsLiveError
        If another live process holds the run, or another run of the date that is to be published.
    """
    settings = request.settings
    run_log = RunLog(
        inputs.store,
        run_prefix(request.job, inputs.run_date.isoformat(), inputs.run_key),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
    )
    state = run_log.refresh()
    reading = inputs.reading
    named = model_name(inputs.model_dir)

    def night() -> Night:
        attempt = run_log.state.attempt
        if attempt is None:
            raise RuntimeError("the run has no attempt")
        return Night(
            job=request.job,
            run_date=inputs.run_date,
            run_key=inputs.run_key,
            store=inputs.store,
            log=run_log,
            attempt=attempt,
            model_dir=inputs.model_dir,
            scratch=scratch,
            settings=settings,
            reading=reading,
            engine=inputs.engine,
        )

    if state.finished and not request.rerun:
        yield night()
        return
    with run_log.hold(wait=True, take_over=request.take_over):
        if settings.publish:
            reading = announce(run_log, reading)
            check_first(run_log, reading, take_over=request.take_over)
        end_killed(run_log)
        record_failed(run_log, request.job, inputs.run_date, inputs.run_key, settings.catalog)
        run_log.open_attempt(
            fresh=request.rerun,
            policy=settings.policy,
            device=settings.device,
            params={
                "reuse_key": inputs.reuse_key,
                "model": str(inputs.model_dir),
                "engine": {"name": inputs.engine.name, "version": inputs.engine.version},
                "release": release(),
                "publish": settings.publish,
                **({} if inputs.earlier is None else {inputs.earlier.kind: inputs.earlier.run_key}),
                **({} if inputs.side is None else {SIDE: inputs.side.told()}),
                "model_name": named,
                "listed": reading.number,
                "options": list(request.options),
                "asked_by": request.asked_by,
            },
        )
        record_origin(run_log, inputs)
        yield night()


def record_origin(run_log: RunLog, inputs: ExtractedInputs) -> None:
    """Record what a held run was made from, unless its log says so already.

    Also where a finished run is used again: objects may have been written anew with the same requests.
    """
    known = run_log.state.steps.get(ORIGIN)
    if known is None or known.results != inputs.origin:
        run_log.finish_step(ORIGIN, inputs.origin)
