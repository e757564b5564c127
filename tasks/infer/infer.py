"""Infer: run the engine over what remains and make its answers durable, part by part.

The engine is a process of its own without storage credentials. If it dies, what it had not sent is planned
again and a new one is started, at most `engine_restarts` times. Whatever ends this step, the answers in hand
are written first, as long as the run is still ours.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from tasks.infer.backends.process import engine_process
from tasks.infer.part_writer import PartWriter
from tasks.infer.progress import InferProgress, StoppedError
from tasks.infer.reuse import reuse_answers
from tasks.infer.run_totals import run_totals
from tasks.infer.session import EngineSession
from tasks.plan.lengths import write_lengths
from tasks.plan.plan import FIRST_FOLDER, write_plan
from tasks.plan.work import load_work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.night.night import Night

log = logging.getLogger(__name__)


def infer(night: Night, on_progress: Callable[[InferProgress], None] | None = None) -> dict[str, Any]:
    """Answer every request of the run that has no durable answer.

    Returns
    -------
    dict
        The results of step `infer`, over all attempts whose parts count.

    Raises
    ------
    StoppedError
        If the run was asked to stop, or the engine died more often than it may be restarted.
    EngineError
        If the engine refuses the job (no restart would help).
    """
    work = load_work(night)
    writer = PartWriter(night, work)
    session = EngineSession(night, work, writer)
    try:
        reused = reuse_answers(night, work, writer)
        folder = night.scratch / FIRST_FOLDER
        while work.open_keys():
            if session.starts > 0 or reused or not (folder / "job.json").exists():
                folder = night.scratch / f"engine-{session.starts + 1}"
                write_plan(night, work, folder, session.answers.choices)
            failure = _run_engine(night, writer, folder, session, on_progress)
            if failure is None:
                break
            if session.starts > night.settings.engine_restarts:
                raise StoppedError(f"the engine died {session.starts} times, last: {failure}")
            log.warning("the engine died (%s); starting it again", failure)
    finally:
        session.close()
        # Not after losing the run: a stale writer's parts would be refused anyway.
        if night.log.is_holder:
            writer.flush()
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


def _run_engine(
    night: Night,
    writer: PartWriter,
    folder: Path,
    session: EngineSession,
    on_progress: Callable[[InferProgress], None] | None,
) -> str | None:
    """Run one engine process to its end; return None if it answered everything, else why it died."""
    asked = False
    with session.engine_held(folder), engine_process(folder) as engine:
        try:
            for message in engine.messages:
                session.take(message)
                writer.flush_if_due()
                if on_progress is not None:
                    on_progress(session.progress())
                if night.log.lost:
                    night.log.refresh()
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
    if session.failure is not None and code < 0:
        session.failure = f"killed by signal {-code}"
    return session.failure
