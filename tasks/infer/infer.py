"""Infer: run the engine over what remains and make its answers durable, part by part.

The engine is a process of its own without storage credentials. If it dies, what it had not sent is planned
again and a new one is started, at most `engine_restarts` times; a request that it dies of is looked for
(`suspects`) and gets an error row. Whatever ends this step, the answers in hand are written first, as long as
the run is still ours.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow.compute as pc

from engine.choices import NATIVE
from engine.errors import EngineError
from engine.models.checkpoint import check_weights
from tasks.base.disk import is_full
from tasks.base.errors import ErrorCode, RequestError
from tasks.infer.backends.engine_process import engine_process
from tasks.infer.part_writer import PartWriter
from tasks.infer.progress import InferProgress, StoppedError
from tasks.infer.reuse import reuse_answers
from tasks.infer.run_totals import run_totals
from tasks.infer.session import EngineSession
from tasks.infer.suspects import Suspects, computed_at_the_end
from tasks.plan.lengths import write_lengths
from tasks.plan.plan import FIRST_FOLDER, write_plan
from tasks.plan.promises import FORECAST, Forecast
from tasks.plan.work import load_work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tasks.infer.suspects import Culprit, Share
    from tasks.night.night import Night
    from tasks.plan.work import NightWork

log = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0
"""Without a message from the engine the step looks how far it is this often."""


def infer(
    night: Night,
    on_progress: Callable[[InferProgress], None] | None = None,
    device: AbstractContextManager[None] | None = None,
) -> dict[str, Any]:
    """Answer every request of the run that has no durable answer.

    Parameters
    ----------
    device
        Entered before the first engine is started, left after the last one has ended. Not entered at all if
        there is nothing to compute.

    Returns
    -------
    dict
        The results of step `infer`, over all attempts whose parts count.

    Raises
    ------
    StoppedError
        If the run was asked to stop, or the engine died more often than it may be restarted.
    EngineFailedError
        If engines died again and again without an answer: running it again would not help.
    EngineError
        If the engine refuses the job (no restart would help).
    """
    check_weights(night.model_dir)
    work = load_work(night)
    writer = PartWriter(night, work)
    session = EngineSession(night, work, writer)
    try:
        planned = _is_planned(night, work)
        reused = reuse_answers(night, work, writer)
        if work.open_keys():
            with device or nullcontext():
                _answer_all(night, work, writer, session, on_progress, planned=planned and not reused)
    finally:
        session.close()
        # Not after losing the run: a stale writer's parts would be refused anyway.
        if night.log.is_holder:
            writer.close()
        else:
            writer.abandon()
    metrics = session.metrics
    results = {
        **run_totals(night, work, metrics.device, metrics.kv_tokens, metrics.held_seconds),
        "seconds": session.seconds(),
        "peak_running": metrics.peak_running,
        "kv_tokens": metrics.kv_tokens,
        "device": metrics.device,
        "engine": metrics.engine or night.engine.told(),
        "engine_starts": session.starts,
        "replans": session.replans,
        "reused_answers": reused,
    }
    write_lengths(night, work)
    night.log.finish_step("infer", results)
    return results


def _answer_all(
    night: Night,
    work: NightWork,
    writer: PartWriter,
    session: EngineSession,
    on_progress: Callable[[InferProgress], None] | None,
    *,
    planned: bool,
) -> None:
    """Run engines until every request has an answer, or an error row because an engine died of it.

    Parameters
    ----------
    planned
        Whether the first folder, if there is one, is of all that is to be computed.
    """
    suspects = Suspects(night.settings.engine_restarts, has_worked=_has_worked(night))
    while left := suspects.left(work.open_keys()):
        share = suspects.share(left)
        folder, forecast = night.scratch / FIRST_FOLDER, _forecast_of_plan(night)
        if session.starts > 0 or not planned or not (folder / "job.json").exists():
            folder = night.scratch / f"engine-{session.starts + 1}"
            forecast = _forecast(_write_job(night, work, folder, session, left, share))
        before = session.answers.taken
        failure = _run_engine(night, writer, folder, session, on_progress, forecast)
        if session.answers.taken > before:
            suspects.answered()
        if failure is None:
            suspects.ended()
        else:
            _check_disk(night.scratch)
            still = set(work.open_keys())
            asked = left if share is None else share.keys
            computing = computed_at_the_end(work, folder)
            # One that does not tell what it computes, but why it ends, knows better than any search.
            # Our own tells as soon as it is there.
            may_pass = computing is None and session.said and (session.ready or night.engine.name != NATIVE)
            if may_pass or not session.ready:
                computing = []
            suspects.died(
                failure,
                None if computing is None else [key for key in computing if key in still],
                [key for key in asked if key in still],
                may_pass=may_pass,
            )
            log.warning("the engine died (%s); starting it again", failure)
        for culprit in suspects.culprits(nothing_left=not suspects.left(work.open_keys())):
            _set_aside(work, writer, culprit)
        if failure is None and share is None:
            break


def _is_planned(night: Night, work: NightWork) -> bool:
    """Tell whether the plan is of what remains now; after a failure within the attempt it is not."""
    step = night.log.state.steps.get("plan")
    return step is not None and step.results.get("answered_before") == len(work.answered)


def _has_worked(night: Night) -> bool:
    """Tell whether an engine of this run has answered something: reused answers are of other runs."""
    return bool(pc.any(pc.equal(night.read_table("outputs", ["run_key"]).column(0), night.run_key)).as_py())


def _check_disk(folder: Path) -> None:
    """Raise what an engine died of that had no room for its files."""
    if is_full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _write_job(
    night: Night,
    work: NightWork,
    folder: Path,
    session: EngineSession,
    left: list[str],
    share: Share | None,
) -> dict[str, Any]:
    """Plan what the next engine is to compute, and return figures about that plan."""
    keys = set(left if share is None else share.keys)
    part = replace(work, members={key: rows for key, rows in work.members.items() if key in keys})
    if share is not None and share.max_sequences is not None:
        width = min(share.max_sequences, night.settings.max_sequences)
        night = replace(night, settings=replace(night.settings, max_sequences=width))
    return write_plan(night, part, folder, session.answers.choices)


def _forecast_of_plan(night: Night) -> Forecast | None:
    step = night.log.state.steps.get("plan")
    return None if step is None else _forecast(step.results)


def _forecast(results: Mapping[str, Any]) -> Forecast | None:
    """Return when the answers of a plan are expected; None where nothing is promised."""
    told = results.get(FORECAST)
    return None if told is None else Forecast.read(told)


def _set_aside(work: NightWork, writer: PartWriter, culprit: Culprit) -> None:
    row = work.rows[work.members[culprit.key][0]]
    log.warning(
        "the engine died of request %s (%s, line %s) more than once (%s); it is set aside as an error",
        row["request_id"],
        row["source_uri"],
        row["source_line"],
        culprit.why,
    )
    said = f"the engine died of this request more than once ({culprit.why}); the others were answered"
    writer.add_error(culprit.key, RequestError(ErrorCode.ENGINE_ERROR, None, said))


def _run_engine(
    night: Night,
    writer: PartWriter,
    folder: Path,
    session: EngineSession,
    on_progress: Callable[[InferProgress], None] | None,
    forecast: Forecast | None,
) -> str | None:
    """Run one engine process to its end; return None if it answered everything, else why it died."""
    asked = False
    with session.engine_held(folder, forecast), engine_process(folder) as engine:
        try:
            if on_progress is not None:
                on_progress(session.progress())
            for message in engine.listen(PATIENCE_S):
                if message is not None:
                    session.take(message)
                else:
                    session.look_at_promises()
                writer.flush_if_due()
                if on_progress is not None:
                    on_progress(session.progress())
                night.log.check_held()
                if night.log.state.stop_requested is not None and not asked:
                    asked = True
                    engine.ask_to_stop()
        except BaseException:
            # Whatever it is: what is answered already is taken in before the engine is gone.
            if night.log.is_holder:
                with suppress(EngineError):
                    for message in engine.last_messages():
                        session.take(message)
            raise
        code = engine.close()
    if asked and session.failure is not None:
        raise StoppedError("the run was asked to stop; run it again to go on")
    # One that has said why it ends, and is then too slow to end, was killed by us.
    if session.failure is not None and code < 0 and not session.said:
        session.failure = f"killed by signal {-code}"
    return session.failure
