"""Infer: run the engine over what remains and make its answers durable, part by part.

The engine is a process of its own without storage credentials. If it dies, what it had not sent is planned
again and a new one is started, at most `engine_restarts` times; a request that it dies of is looked for
(`suspects`) and gets an error row. Several engines may share the requests (`fleet`); this process alone
writes. Whatever ends this step, the answers in hand are written first, as long as the run is still ours.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from engine.models.checkpoint import check_weights
from tasks.infer.backends.engine_process import Here
from tasks.infer.fleet import Fleet
from tasks.infer.part_writer import PartWriter
from tasks.infer.reuse import reuse_answers
from tasks.infer.run_totals import run_totals
from tasks.infer.session import Intake
from tasks.plan.lengths import write_lengths
from tasks.plan.work import load_work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from tasks.infer.backends.contract import Place
    from tasks.infer.progress import InferProgress
    from tasks.night.night import Night
    from tasks.plan.work import NightWork


def infer(
    night: Night,
    on_progress: Callable[[InferProgress], None] | None = None,
    device: AbstractContextManager[None] | None = None,
    places: Sequence[Place] | None = None,
) -> dict[str, Any]:
    """Answer every request of the run that has no durable answer.

    Parameters
    ----------
    device
        Entered before the first engine is started, left after the last one has ended. Not entered at all if
        there is nothing to compute.
    places
        Of the replicas; None: there is one, here on the night's device.

    Returns
    -------
    dict
        The results of step `infer`, over all attempts whose parts count. Of this attempt alone are those of
        its engines: `replicas`, `engine_starts`, `replans`, and how often requests moved from one replica to
        another (`moves`) and how many (`moved_requests`).

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
    intake = Intake(night, work, writer)
    fleet = Fleet(night, intake, places or (Here(night.settings.device),))
    try:
        planned = _is_planned(night, work)
        reused = reuse_answers(night, work, writer)
        if work.open_keys():
            with device or nullcontext():
                fleet.answer_all(on_progress, planned=planned and not reused)
    finally:
        intake.close()
        # Not after losing the run: a stale writer's parts would be refused anyway.
        if night.log.is_holder:
            writer.close()
        else:
            writer.abandon()
    metrics = intake.metrics
    results = {
        **run_totals(night, work, metrics.device, metrics.kv_tokens, metrics.held),
        "seconds": intake.seconds(),
        "peak_running": metrics.peak_running,
        "kv_tokens": metrics.kv_tokens,
        "device": metrics.device,
        "engine": metrics.engine or night.engine.told(),
        "engine_starts": fleet.starts,
        "replans": fleet.replans,
        "reused_answers": reused,
        "replicas": len(fleet.replicas),
        "places_lost": fleet.places_lost,
        "moves": fleet.moves,
        "moved_requests": fleet.moved,
    }
    write_lengths(night, work)
    night.log.finish_step("infer", results)
    return results


def _is_planned(night: Night, work: NightWork) -> bool:
    """Tell whether the plan is of what remains now; after a failure within the attempt it is not."""
    step = night.log.state.steps.get("plan")
    return step is not None and step.results.get("answered_before") == len(work.answered)
