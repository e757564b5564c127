"""Runs the parts of the planner's benchmark on a few processes, or gathers what is done of them."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.benchmarks.plan.cells import Bench, MissingError
from tests.benchmarks.plan.sections import RUNNERS, Scale, Task

if TYPE_CHECKING:
    from pathlib import Path


def collect(tasks: list[Task], scale: Scale, scratch: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the figures by section of all tasks that are done, and the names of those that are not."""
    found: dict[str, list[dict[str, Any]]] = {}
    missing = []
    for task in tasks:
        try:
            figures = RUNNERS[task.runner](Bench(task.mix, scratch, kept=True), task, scale)
        except MissingError:
            missing.append(task.name)
        else:
            found.setdefault(task.section, []).append(figures)
    return found, missing


def work(task: Task, scale: Scale, scratch: Path) -> tuple[Task, dict[str, Any], float]:
    """Run one task in this process."""
    begin = time.perf_counter()
    found = RUNNERS[task.runner](Bench(task.mix, scratch), task, scale)
    return task, found, time.perf_counter() - begin


def run(tasks: list[Task], scale: Scale, scratch: Path, jobs: int) -> dict[str, list[dict[str, Any]]]:
    """Run all tasks on `jobs` processes; the figures of each section are in the order of its tasks."""
    found: dict[Task, dict[str, Any]] = {}
    begin = time.perf_counter()
    # Timings of the planner itself come last, alone; the others are simulated and do not mind company.
    together = [t for t in tasks if t.section != "build" and jobs > 1]
    alone = [t for t in tasks if t not in set(together)]
    if together:
        # Forked processes would inherit the locks of the threads that read the traces.
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            do = functools.partial(work, scale=scale, scratch=scratch)
            for task, figures, seconds in pool.imap_unordered(do, together):
                found[task] = figures
                _progress(len(found), len(tasks), task, seconds, begin)
    for task in alone:
        _, found[task], seconds = work(task, scale, scratch)
        _progress(len(found), len(tasks), task, seconds, begin)
    return {s: [found[t] for t in tasks if t.section == s] for s in dict.fromkeys(t.section for t in tasks)}


def _progress(done: int, of: int, task: Task, seconds: float, begin: float) -> None:
    took = time.perf_counter() - begin
    print(f"[{done}/{of}, {took:.0f} s] {task.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
