"""Plan: the order of what is still to be computed, and the folder that the engine process reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.choices import COMBINED, ESTIMATORS, FIXED, LOGGED, ORDERS, SAMPLED
from engine.cost.devices import model_shape
from engine.job.format import (
    LENGTHS_FILE,
    PLAN_FILE,
    read_plan_file,
    read_replanning,
)
from engine.models.config import load_config
from engine.plan.features import Features
from engine.plan.length_model import LengthModel
from engine.plan.lengths import SAMPLE, estimate_lengths, fixed_lengths
from engine.plan.order import segments_of
from engine.plan.policies import plan_tree
from engine.plan.replan import Replanning
from engine.plan.sampled import choose_sample
from engine.plan.stratified import sample_workloads
from engine.plan.tree import build_tree
from engine.runtime.sample.settings import wants_embedding
from engine.simulate.schedules import Schedule
from engine.simulate.search import Work
from tasks.base.errors import ConfigurationError
from tasks.plan.asked import Asked
from tasks.plan.choice import CHOICE, choose, recorded_choice
from tasks.plan.lengths import read_history, workload_numbers
from tasks.plan.prediction import expected_sizes, predict
from tasks.plan.promises import FORECAST, forecast, keeping_pace, promised_priority
from tasks.plan.work import load_work
from tasks.requests.choices import Choices
from tasks.requests.embeddings import ENDPOINT as EMBEDDINGS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from engine.plan.tree import PrefixTree
    from tasks.night.night import Night, NightSettings
    from tasks.plan.work import NightWork

    Int64 = npt.NDArray[np.int64]

FIRST_FOLDER = "engine-0"
BY_WORKLOAD = 8_000
"""Sequences from which on something of every workload is answered first.

Over ten samples of 8,000 requests of each published trace a first night takes 1.165 times as long as one of
known lengths, against 1.186 with every so-many-th leaf. On 4,000, where that is half of the long answers, it
took longer.
"""
DEADLINE_WINDOW_S = 3600
"""Requests whose deadlines fall into the same of such windows are blended."""


def plan(night: Night) -> dict[str, Any]:
    """Order the requests without a durable answer and record the plan.

    Returns
    -------
    dict
        The results of step `plan`; it is made anew in every attempt, over what remains.

    Raises
    ------
    ConfigurationError
        If the policy is unknown, or `kv_tokens` cannot hold the longest request.
    """
    work = load_work(night)
    folder = night.scratch / FIRST_FOLDER
    results = write_plan(night, work, folder)
    recorded = {PLAN_FILE: ""} | ({LENGTHS_FILE: "lengths"} if (folder / LENGTHS_FILE).exists() else {})
    parts = {
        name: night.log.write_part("plan", folder / name, ext="npz", count=results["remaining"], label=label)
        for name, label in recorded.items()
    }
    results["parts"] = {name: part.name for name, part in parts.items()}
    night.log.finish_step("plan", results)
    return results


def take_plan(night: Night) -> bool:
    """Write the first folder of the engine by the plan of this attempt, which another process has recorded.

    Returns
    -------
    bool
        False if there is no plan of what remains now; step infer then makes one.
    """
    step = night.log.state.steps.get("plan")
    if step is None or step.attempt_id != night.attempt.id or "parts" not in step.results:
        return False
    work = load_work(night)
    if step.results["answered_before"] != len(work.answered):
        return False
    files = {name: night.fetch(night.log.state.parts[part]) for name, part in step.results["parts"].items()}
    asked = Asked.of(night, work, Choices())
    replanning = read_replanning(files[LENGTHS_FILE]) if LENGTHS_FILE in files else None
    choice = recorded_choice(night)
    schedule = None if choice is None else Schedule.read(choice["schedule"])
    made = read_plan_file(files[PLAN_FILE])
    asked.write(night, night.scratch / FIRST_FOLDER, made, replanning, schedule)
    return True


def write_plan(night: Night, work: NightWork, folder: Path, choices: Choices | None = None) -> dict[str, Any]:
    """Write the engine's folder for everything that remains; return figures about the plan.

    What `choices` holds already of unfinished answers is not computed again.
    """
    settings = night.settings
    if settings.policy not in ORDERS:
        raise ConfigurationError(
            "--policy", f"{settings.policy!r} is unknown", f"Choose one of {', '.join(ORDERS)}"
        )
    if settings.lengths not in ESTIMATORS:
        raise ConfigurationError(
            "--lengths", f"{settings.lengths!r} is unknown", f"Choose one of {', '.join(ESTIMATORS)}"
        )
    config = load_config(night.model_dir)
    asked = Asked.of(night, work, choices or Choices())
    rows, tokens, offsets = asked.rows, asked.tokens, asked.offsets
    prompt = np.diff(offsets)
    max_new = np.array([sampling.max_tokens for _, _, sampling in asked.named], np.int64)
    _check_memory(settings.kv_tokens, settings.page_size, prompt + max_new)
    prefill_only = wants_embedding([sampling for _, _, sampling in asked.named])
    group = workload_numbers(_groups(rows, prefill_only))
    priority, window = constraints_of(rows)
    tree = build_tree(tokens, offsets)
    estimate, replanning = _lengths(night, rows, tokens, offsets, tree, max_new, group, prefill_only)
    shape = model_shape(config, settings.dtype, settings.kv_dtype)
    device = settings.planned_on
    priority = promised_priority(night, rows, offsets, estimate, priority, shape, device)
    if replanning is not None and (priority is not None or window is not None):
        replanning = replace(replanning, segment=segments_of(priority, window, len(rows)))
    sizes = expected_sizes(offsets, max_new, shape, device, settings)
    asked_for = Work(tree, tokens, offsets, estimate, group, priority, window)
    schedule, choice = choose(night, asked_for, shape, device, sizes)
    if choice is not None:
        # An order that the settings name stays.
        found = keeping_pace(night, rows, asked_for, schedule, shape, device, sizes)
        if found != schedule:
            why = f"{choice['why']} By {schedule.policy} a promised tenant would be later than today."
            schedule, choice = found, {**choice, "schedule": found.told(), "text": str(found), "why": why}
    replanning = _sampling(replanning, schedule, settings)
    made = plan_tree(
        schedule.policy,
        tree,
        estimate,
        shape,
        device,
        seed=settings.run_seed,
        group=group,
        priority=priority,
        window=window,
        first=replanning.sample if replanning is not None and len(replanning.sample) else None,
    )
    made = schedule.of(made)
    asked.write(night, folder, made, replanning, None if choice is None else schedule)
    steps = None if sizes is None else schedule.settings(sizes)
    return {
        "policy": schedule.policy,
        CHOICE: choice,
        "step": steps_of(schedule, settings),
        "lengths": settings.lengths,
        "sampled": 0 if replanning is None else len(replanning.sample),
        "remaining": len({name for name, _, _ in asked.named}),
        "sequences": len(rows),
        "answered_before": len(work.answered),
        "sharing_an_answer": len(work.rows) - len(work.members),
        "prompt_tokens": made.prompt_tokens,
        "distinct_tokens": made.distinct_tokens,
        "hit_rate_optimum": made.hit_rate_optimum,
        "estimated_output_tokens": float(estimate.sum()),
        "compute_seconds": float(made.compute.sum()),
        "memory_seconds": float(made.memory.sum()),
        "saved_tokens": made.saved_tokens,
        "segments": max(1, len(made.segments) - 1),
        "constraint_tokens": made.constraint_tokens,
        "constraint_seconds": made.constraint_seconds,
        "predicted": predict(made, tokens, offsets, shape, device, steps),
        FORECAST: forecast(night, rows, made, tokens, offsets, shape, device, steps),
    }


def _lengths(
    night: Night,
    rows: list[dict[str, Any]],
    tokens: npt.NDArray[np.int32],
    offsets: Int64,
    tree: PrefixTree,
    limit: Int64,
    group: Int64,
    prefill_only: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float64], Replanning | None]:
    """Return the expected lengths, and what it takes to plan again if the estimator learns from answers."""
    settings = night.settings
    if settings.lengths == FIXED or not rows:
        return np.where(prefill_only, 0.0, fixed_lengths(limit)), None
    observed = [row["observed_output_tokens"] for row in rows]
    logged = np.array([np.nan if d is None else d for d in observed], np.float64)
    if settings.lengths == LOGGED:
        return np.where(prefill_only, 0.0, estimate_lengths(logged, limit, group)[0]), None
    model = None
    if settings.lengths == COMBINED:
        model = LengthModel.of(Features.of(tokens, offsets, group), limit, read_history(night), logged)
    found = Replanning(
        policy=settings.policy,
        seed=settings.run_seed,
        tree=tree,
        limit=limit,
        segment=None,
        group=group,
        model=model,
        sample=np.zeros(0, np.int32),
        prefill_only=prefill_only if prefill_only.any() else None,
    )
    return found.estimate(np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int8)), found


def _sampling(
    replanning: Replanning | None, schedule: Schedule, settings: NightSettings
) -> Replanning | None:
    """Return it for the policy that was chosen, with the requests that are answered first."""
    if replanning is None:
        return None
    # No other order than the blend goes by lengths.
    samples = schedule.policy == "blend" or settings.lengths == SAMPLED
    sample, tree = replanning.sample, replanning.tree
    if samples and replanning.group is not None and len(tree.sorted) >= BY_WORKLOAD:
        sample = sample_workloads(tree, replanning.group, SAMPLE, settings.run_seed)
    elif samples:
        sample = choose_sample(tree, SAMPLE, settings.run_seed)
    if replanning.prefill_only is not None:
        # They have no lengths to learn.
        sample = sample[~replanning.prefill_only[sample]]
    return replace(replanning, policy=schedule.policy, sample=sample)


def steps_of(schedule: Schedule, settings: NightSettings) -> dict[str, Any]:
    """Return the steps that an engine takes by a schedule, as they are recorded."""
    return {
        "token_budget": schedule.token_budget,
        "max_sequences": min(settings.max_sequences, schedule.token_budget),
        "pacing": schedule.pacing,
        "reserve": list(schedule.reserve),
    }


def _groups(rows: list[dict[str, Any]], prefill_only: npt.NDArray[np.bool_]) -> list[str]:
    """Return the names of the groups whose requests are taken to have like lengths: their workloads.

    Requests for embeddings have no answers, so they are groups of their own.
    """
    apart = zip(rows, prefill_only.tolist(), strict=True)
    return [f"{row['workload']}\0{EMBEDDINGS}" if only else row["workload"] for row, only in apart]


def constraints_of(rows: list[dict[str, Any]]) -> tuple[Int64 | None, Int64 | None]:
    """Return priorities and deadline windows of the rows; None where no row has any."""
    priority = np.array([row["priority"] or 0 for row in rows], np.int64)
    ends = [row["deadline"].timestamp() if row["deadline"] else -1.0 for row in rows]
    window = np.floor(np.array(ends) / DEADLINE_WINDOW_S).astype(np.int64)
    return priority if priority.any() else None, window if (window >= 0).any() else None


def _check_memory(kv_tokens: int | None, page_size: int, longest: np.ndarray[Any, Any]) -> None:
    # One page more than the request: the source of a partial prefix hit is held meanwhile.
    needed = (-(-int(longest.max(initial=0)) // page_size) + 1) * page_size
    if kv_tokens is not None and kv_tokens < needed:
        raise ConfigurationError(
            "--kv-tokens",
            f"{kv_tokens} is too small for the longest request, which may need {needed}",
            "Raise it, or lower max_tokens of the requests",
        )
