"""Our scheduler beside an engine that computes: it decides who joins, who goes back, how large a step is.

It is the scheduler of our own engine, by the same compiled functions, over its own picture of the KV memory
(`engine.runtime.schedule`). The engine computes what was decided and tells how long each answer is by now;
where its memory is fuller than the picture says, it preempts by itself, and tells that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.errors import CapacityError
from engine.plan.scan import give_back
from engine.runtime import state
from engine.runtime.kv.pages import make_pool
from engine.runtime.schedule import step as scheduler
from engine.runtime.schedule.admission import admit
from engine.runtime.schedule.forecast import RULES
from engine.runtime.schedule.pacing import prepare
from engine.runtime.schedule.preemption import relieve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.arrays import Int32
    from engine.cost.step import StepCost
    from engine.job.format import Job
    from engine.runtime.schedule.revision import Reviser
    from engine.runtime.settings import EngineSettings


class Decision(NamedTuple):
    """What the next step is to be.

    Attributes
    ----------
    preempted
        Requests that go back, to be admitted again later; those that the engine has put back itself are not
        among them.
    admitted
        Requests that join, in this order; some may have been there before.
    tokens
        Most tokens of the step.
    """

    preempted: list[int]
    admitted: list[int]
    tokens: int


class OurScheduler:
    """Decides step after step over the requests of a job.

    Parameters
    ----------
    max_new
        int32 [N]: most tokens of each answer.
    settings
        Sizes, as the engine has them; with `pacing` the remaining work sets the size of a step.
    cost
        Of the device profile that the plan was made with.
    reviser
        Orders anew as answers come in; None keeps the plan.
    """

    def __init__(
        self, job: Job, max_new: Int32, settings: EngineSettings, cost: StepCost, reviser: Reviser | None
    ) -> None:
        self._settings, self._cost, self._reviser = settings, cost, reviser
        size, most = settings.page_size, settings.max_sequences
        longest = int((np.diff(job.offsets) + max_new).max(initial=1))
        self._pool = make_pool(settings.kv_tokens // size, size, most)
        self._requests = state.make_requests(
            job.tokens,
            job.offsets,
            max_new,
            np.clip(job.plan.estimate, 1.0, max_new),
            np.array([one.ignore_eos for one in job.sampling], np.int8),
        )
        # The answers themselves stay with the engine.
        self._slots = state.make_slots(most, -(-longest // size) + 1, 1)
        self._scan = job.plan.scan()
        self._work = state.make_work(settings.token_budget, most)
        self._preempted = np.zeros((most, 2), np.int32)
        self._ended = np.zeros(len(max_new), np.int8)
        self._tokens = settings.token_budget

    def begin_step(self) -> Decision:
        """Return what the next step is to be.

        Raises
        ------
        CapacityError
            If nobody runs and nobody can join.
        """
        pool, requests, slots, scan = self._pool, self._requests, self._slots, self._scan
        settings = self._settings
        count = relieve(pool, requests, slots, scan, self._cost, self._preempted)
        preempted = self._preempted[:count, 0].tolist()
        outlook, self._tokens = prepare(
            pool, requests, slots, scan, self._cost, settings.token_budget, settings.pacing
        )
        rule = RULES[settings.admission]
        admitted = admit(pool, requests, slots, scan, outlook, self._tokens, rule)
        running = self.running()
        if not running:
            raise CapacityError("no request can go on although some are unfinished")
        return Decision(preempted, running[len(running) - admitted :], self._tokens)

    def build(self) -> list[int]:
        """Count the step in hand as computed; return whom our engine would have given a token in it."""
        scheduler.build(self._pool, self._requests, self._slots, self._work, self._tokens, rows=False)
        count = self._work.size[state.W_SAMPLES]
        found: list[int] = self._slots.request[self._work.sample_slots[:count]].tolist()
        return found

    def count(self, generated: Mapping[int, int], finished: Sequence[tuple[int, bool]]) -> None:
        """Take in what a step has generated; to be called after `build`.

        Parameters
        ----------
        generated
            Request -> tokens that its answer has by now, of those that run.
        finished
            Requests whose answers are complete, and whether they ended by themselves (not at their limit).
        """
        requests, slots, settings = self._requests, self._slots, self._settings
        for request, tokens in generated.items():
            requests.generated[request] = min(tokens, requests.max_new[request])
        if finished:
            slot_of = self._slot_of()
            for request, by_itself in finished:
                self._ended[request] = by_itself
            ended = np.array([slot_of[request] for request, _ in finished], np.int32)
            scheduler.retire(self._pool, slots, self._scan, ended)
        if self._reviser is not None and self._reviser.due(slots):
            self._scan = self._reviser.look(
                requests, slots, self._scan, self._ended, settings.page_size, settings.token_budget
            )

    def put_back(self, request: int) -> None:
        """Take note that the engine has preempted a request itself."""
        slot = self._slot_of().get(request)
        if slot is None:
            return
        requests, scan, counts = self._requests, self._scan, self._slots.counts
        requests.stored[request] = max(requests.stored[request], self._slots.computed[slot])
        scheduler.retire(self._pool, self._slots, scan, np.array([slot], np.int32))
        counts[state.FINISHED] -= 1
        counts[state.PREEMPTIONS] += 1
        remaining = float(max(1, requests.estimate[request] - requests.generated[request]))
        # Its work as it was planned: computing its tokens again takes what reading them less saves.
        compute, memory = float(scan.compute[request]), float(scan.memory[request])
        give_back(scan, request, remaining, compute, memory)

    def running(self) -> list[int]:
        """Return the requests that run, in the order in which they joined."""
        slots = self._slots
        found: list[int] = slots.request[slots.running[: slots.counts[state.RUNNING]]].tolist()
        return found

    @property
    def unfinished(self) -> int:
        """Requests without a complete answer."""
        return len(self._ended) - int(self._slots.counts[state.FINISHED])

    def _slot_of(self) -> dict[int, int]:
        slots = self._slots.running[: self._slots.counts[state.RUNNING]]
        return dict(zip(self._slots.request[slots].tolist(), slots.tolist(), strict=True))


def admission_order(ours: OurScheduler, lengths: Int32) -> list[int]:
    """Return the order in which requests would join if their answers had `lengths` tokens (int32 [N])."""
    order: dict[int, None] = {}
    generated = np.zeros(len(lengths), np.int32)
    while ours.unfinished:
        order.update(dict.fromkeys(ours.begin_step().admitted))
        sampled = ours.build()
        generated[sampled] += 1
        ended = [(i, True) for i in sampled if generated[i] >= lengths[i]]
        ours.count({i: int(generated[i]) for i in sampled}, ended)
    return list(order)
