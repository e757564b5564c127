"""Which requests vLLM gets before a step: those that we admit now, or the next ones of a fixed order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.backends.foreign.order import Window
from engine.backends.foreign.ours import OurScheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.arrays import Int32
    from engine.backends.vllm.load import Loaded
    from engine.backends.vllm.scheduler import StepFigures
    from engine.cost.step import StepCost
    from engine.job.format import Job
    from engine.runtime.schedule.revision import Reviser


class Feed(Protocol):
    """Decides before each step what vLLM is given, and hears after it what became of that."""

    def before_step(self) -> list[int]:
        """Return the requests to give to vLLM now, in this order."""
        ...

    def after_step(self, finished: Sequence[tuple[int, bool]], figures: StepFigures | None) -> None:
        """Take in what the step has finished (and whether by itself), and its figures if there are any."""
        ...

    def running(self) -> Int32:
        """Return the requests that the next step may compute, int32 [at most max_sequences]."""
        ...


class OurFeed:
    """Our scheduler decides who joins and who goes back, and how many tokens the step takes."""

    def __init__(
        self, job: Job, loaded: Loaded, cost: StepCost, reviser: Reviser | None, *, paced: bool
    ) -> None:
        settings = replace(loaded.settings, pacing=paced)
        self._ours = OurScheduler(job, loaded.max_new, settings, cost, reviser)
        self._scheduler = loaded.scheduler
        self._scheduler.hold_preempted()

    def before_step(self) -> list[int]:
        """See `Feed`; preempts, lets in again and sets the size of the step, too."""
        decision = self._ours.begin_step()
        self._scheduler.preempt(decision.preempted)
        # What vLLM has put back itself is among its own; all others are new to it.
        new = [request for request in decision.admitted if not self._scheduler.waiting.let_in(request)]
        self._scheduler.max_num_scheduled_tokens = decision.tokens
        return new

    def after_step(self, finished: Sequence[tuple[int, bool]], figures: StepFigures | None) -> None:
        """See `Feed`."""
        from engine.backends.vllm.scheduler import number_of

        self._ours.build()
        requests = self._scheduler.requests.values()
        generated = {number_of(one.request_id): one.num_output_tokens for one in requests}
        self._ours.count(generated, finished)
        for request in figures.put_back if figures is not None else ():
            self._ours.put_back(request)

    def running(self) -> Int32:
        """See `Feed`."""
        return np.array(self._ours.running(), np.int32)


class PlainFeed:
    """vLLM decides; it gets the requests in a fixed order, so many that some always wait."""

    def __init__(self, loaded: Loaded, order: Sequence[int]) -> None:
        self._window = Window(order, loaded.settings.max_sequences)

    def before_step(self) -> list[int]:
        """See `Feed`."""
        return self._window.new()

    def after_step(self, finished: Sequence[tuple[int, bool]], figures: StepFigures | None) -> None:  # noqa: ARG002
        """See `Feed`."""
        self._window.ended(request for request, _ in finished)

    def running(self) -> Int32:
        """See `Feed`: those that came first, as vLLM takes them."""
        return self._window.running()
