"""The order in which an engine that decides itself is fed, and how far ahead of what it computes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.backends.foreign.ours import OurScheduler, admission_order
from engine.warm import make_ready

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.arrays import Int32
    from engine.backends.contract import Send
    from engine.backends.foreign.options import ForeignOptions
    from engine.cost.step import StepCost
    from engine.job.format import Job
    from engine.runtime.settings import EngineSettings

AHEAD: Final = 64
"""Requests that wait in an engine which decides itself who is next: more than join in one step."""
TWO_SIDED: Final = ("blend", "interleave")
"""Order policies that are decided while the engine runs; the others are an order and nothing else."""


def prepare(device: str, send: Send) -> None:  # noqa: ARG001 - as `engine.backends.contract.Prepare` has it
    """Load or compile the functions of the scheduler, so that no device waits for it."""
    make_ready("engine.cost", "engine.plan.scan", "engine.runtime", begin=lambda: send({"type": "compiling"}))


class Window:
    """Hands out requests in a fixed order, so many that some always wait in the engine.

    Parameters
    ----------
    order
        Requests, the next one first.
    most
        How many the engine computes at a time.
    """

    def __init__(self, order: Sequence[int], most: int) -> None:
        self._order, self._next = order, 0
        self._most = most
        self._given: dict[int, None] = {}

    def new(self) -> list[int]:
        """Return the requests to give to the engine now, in this order."""
        room = max(0, self._most + AHEAD - len(self._given))
        found = list(self._order[self._next : self._next + room])
        self._next += len(found)
        self._given.update(dict.fromkeys(found))
        return found

    def ended(self, requests: Iterable[int]) -> None:
        """Take note that the engine has done with requests."""
        for request in requests:
            self._given.pop(request, None)

    def running(self) -> Int32:
        """Return the requests that it may compute, int32 [at most `most`]: those that came first."""
        return np.array(list(self._given)[: self._most], np.int32)


def is_paced(job: Job, options: ForeignOptions) -> bool:
    """Tell whether the remaining work decides how many tokens a step takes: by the job, else the options."""
    return options.pacing if job.settings.pacing is None else job.settings.pacing


def needs_our_steps(job: Job) -> bool:
    """Tell whether a job is more than an order: a two-sided policy, or chosen for the steps that we take."""
    return job.settings.pacing is not None or job.plan.policy in TWO_SIDED


def simulated_order(
    job: Job, max_new: Int32, settings: EngineSettings, cost: StepCost, *, paced: bool
) -> list[int]:
    """Return the order in which we would admit the requests if their answers were as long as expected."""
    lengths = np.clip(np.rint(job.plan.estimate), 1, max_new).astype(np.int32)
    ours = OurScheduler(job, max_new, replace(settings, pacing=paced), cost, None)
    return admission_order(ours, lengths)
