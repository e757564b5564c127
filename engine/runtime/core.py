"""The engine loop: relieve memory, admit, launch a step, take in what it sampled, hand out finished answers.

With a runner that lags, a step is launched before the result of the one before is known; see
`engine.runtime.schedule.flight`.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engine.cost.metrics import StepSample
from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.errors import CapacityError
from engine.models.decoder import Decoder
from engine.plan.scan import waiting_requests, without
from engine.runtime import state
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.kv.invariants import check
from engine.runtime.kv.pages import N_EVICTED, available, make_pool
from engine.runtime.sample.constraints import Constraints
from engine.runtime.sample.logprobs import LogprobStore
from engine.runtime.sample.penalties import Prompts
from engine.runtime.sample.settings import wants_embedding
from engine.runtime.sample.stops import StopChecker
from engine.runtime.schedule import flight as flights
from engine.runtime.schedule import step as scheduler
from engine.runtime.schedule.admission import admit
from engine.runtime.schedule.forecast import RULES
from engine.runtime.schedule.pacing import prepare
from engine.runtime.schedule.preemption import relieve
from engine.runtime.settings import EngineSettings
from engine.runtime.state.runner import LogprobWish, MaskWish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from engine.arrays import Float32, Int32, Int64
    from engine.cost.step import StepCost
    from engine.plan.moves import Giver
    from engine.plan.policies import Plan
    from engine.runtime.sample.logprobs import TokenLogprobs
    from engine.runtime.sample.settings import Sampling
    from engine.runtime.schedule.flight import Flight
    from engine.runtime.schedule.revision import Reviser
    from engine.runtime.state.runner import Launched, Runner, StepResult

__all__ = ["REASONS", "Completion", "Engine", "EngineSettings"]

REASONS = {state.STOPPED: "stop", state.LENGTH: "length"}


@dataclass(frozen=True)
class Completion:
    """A finished answer: token ids (stop token included), text, how it ended, Unix times of both ends.

    `logprobs` has one entry per token id, where the request asked for them. `failure` says why the answer
    could not be held to its constraint, if so: then it is none. `embedding`, float32, is what a request got
    that wanted one; it has no token ids then.
    """

    request: int
    token_ids: Int32
    text: str
    finish_reason: str
    cached_tokens: int
    started_at: float
    finished_at: float
    logprobs: TokenLogprobs | None = None
    failure: str | None = None
    embedding: Float32 | None = None


@dataclass
class _InFlight:
    """A step that was launched, and its result once it has been waited for."""

    flight: Flight
    launched: Launched
    result: StepResult | None = None


class Engine:
    """Answers N requests with one model, in the order that the plan and the memory give."""

    def __init__(
        self,
        runner: Runner | Decoder,
        tokenizer: PreTrainedTokenizerBase | None,
        settings: EngineSettings,
        tokens: Int32,
        start: Int64,
        sampling: Sequence[Sampling],
        plan: Plan,
        cost: StepCost | None = None,
        reviser: Reviser | None = None,
        on_launch: Callable[[Int32], None] | None = None,
    ) -> None:
        """Prepare a run over the prompts ``tokens[start[i]:start[i + 1]]``; a decoder gets a `CpuRunner`.

        `cost` is that of the device profile that the plan was made with; None is a nominal CPU. With a
        `reviser` what waits is estimated and ordered anew as answers come in. `on_launch` hears before each
        step which requests are running (int32 [running]).

        Raises
        ------
        CapacityError
            If the KV memory or the context length cannot hold some request by itself.
        """
        self.settings = settings
        if isinstance(runner, Decoder):
            runner = CpuRunner(runner, settings.kv_tokens, settings.page_size)
        if (runner.kv_tokens, runner.page_size) != (settings.kv_tokens, settings.page_size):
            raise CapacityError("the runner's KV memory is not that of the settings")
        self._runner, decoder = runner, runner.decoder
        self._stops = np.array(decoder.config.stop_token_ids, np.int64)
        self._checker = StopChecker(sampling, tokenizer)
        self._logprobs = LogprobStore(sampling)
        config = decoder.config
        self._constraints = Constraints(sampling, tokenizer, config.vocab_size, config.stop_token_ids)
        prompt = np.diff(start)
        max_new = np.minimum([s.max_tokens for s in sampling], decoder.config.max_positions - prompt)
        # Nothing is generated behind a prompt that is embedded, so it may fill the context.
        embeds = wants_embedding(sampling) & (prompt <= decoder.config.max_positions)
        max_new[embeds] = 1
        self._embeddings: dict[int, Float32] = {}
        self._check_capacity(prompt, max_new)
        self.requests = state.make_requests(
            tokens,
            start,
            max_new.astype(np.int32),
            np.clip(plan.estimate, 1.0, max_new),
            np.array([s.ignore_eos for s in sampling], np.int8),
        )
        size = settings.page_size
        longest = int((prompt + max_new).max(initial=1))
        self.pool = make_pool(settings.kv_tokens // size, size, settings.max_sequences)
        self.slots = state.make_slots(
            settings.max_sequences, -(-longest // size) + 1, int(max_new.max(initial=1))
        )
        self.scan = plan.scan()
        self._cost = cost or step_cost(
            ModelShape.of(decoder.config, decoder.weights.embed.element_size()), NOMINAL["cpu"]
        )
        self._rule = RULES[settings.admission]
        self._work = state.make_work(settings.token_budget, settings.max_sequences)
        self._preempted = np.zeros((settings.max_sequences, 2), np.int32)
        self._reviser = reviser
        self._on_launch = on_launch
        self._ended = np.zeros(len(max_new), np.int8)
        self._parked: dict[int, Int32] = {}
        self._started_at = np.zeros(len(max_new))
        runner.begin(sampling, self.slots, Prompts(self.requests.tokens, self.requests.start))
        self._in_flight: deque[_InFlight] = deque()
        self._spare = [flights.make_flight(settings.max_sequences) for _ in range(runner.lag + 1)]
        self.surplus_tokens = 0
        self._given = 0

    def _check_capacity(self, prompt: Int64, max_new: Int64) -> None:
        if len(prompt) == 0:
            return
        if int(max_new.min()) < 1:
            longest, limit = int(prompt.max()), self._runner.decoder.config.max_positions
            raise CapacityError(f"prompt of {longest} tokens does not fit the model's context of {limit}")
        # One page more than the longest request: the source of a partial prefix hit is held meanwhile.
        size = self.settings.page_size
        needed = (-(-int((prompt + max_new).max()) // size) + 1) * size
        if self.settings.kv_tokens < needed:
            raise CapacityError(
                f"--kv-tokens: {self.settings.kv_tokens} is too small for the longest request, which may "
                f"need {needed}; raise it, or lower max_tokens"
            )

    @property
    def unfinished(self) -> int:
        """Requests without a complete answer, but for those that were given back."""
        return len(self.requests.max_new) - self._given - int(self.slots.counts[state.FINISHED])

    def counters(self) -> dict[str, int]:
        """Return the counts of the run so far."""
        counts = self.slots.counts
        return {
            "steps": int(counts[state.STEP]),
            "finished": int(counts[state.FINISHED]),
            "prefill_tokens": int(counts[state.PREFILL_TOKENS]),
            "decode_tokens": int(counts[state.DECODE_TOKENS]),
            "hit_tokens": int(counts[state.HIT_TOKENS]),
            "recomputed_tokens": int(counts[state.RECOMPUTED_TOKENS]),
            "preemptions": int(counts[state.PREEMPTIONS]),
            "evicted_pages": int(self.pool.counts[N_EVICTED]),
            "peak_running": int(counts[state.PEAK_RUNNING]),
            "surplus_tokens": self.surplus_tokens,
            "replans": 0 if self._reviser is None else self._reviser.replans,
        }

    def run(self) -> Iterator[tuple[list[Completion], StepSample]]:
        """Run step after step until every request is answered, yielding what each step produced."""
        while self.unfinished:
            yield self.step()

    def step(self) -> tuple[list[Completion], StepSample]:
        """Launch one step, if there is something to compute, and take in the oldest result that is due.

        With a lag the answers that are returned are those of the step before.
        """
        started_at, begin = time.time(), time.perf_counter()
        before = self.slots.counts.copy()
        evicted = int(self.pool.counts[N_EVICTED])
        work, launched = self._work, self._schedule()
        running = int(self.slots.counts[state.RUNNING])
        if launched and self._on_launch is not None:
            self._on_launch(self.slots.request[self.slots.running[:running]])
        nano_batches = self._launch() if launched else 1
        finished = []
        while len(self._in_flight) > (self._runner.lag if launched else 0):
            finished += self._arrive(self._in_flight.popleft())
        if self._reviser is not None and self._reviser.due(self.slots):
            self._revise(self._reviser)
        counts = self.slots.counts
        sample = StepSample(
            step=int(counts[state.STEP]),
            started_at=started_at,
            seconds=time.perf_counter() - begin,
            tokens=int(work.size[state.W_TOKENS]),
            prefill_tokens=int(counts[state.PREFILL_TOKENS] - before[state.PREFILL_TOKENS]),
            decode_tokens=int(counts[state.DECODE_TOKENS] - before[state.DECODE_TOKENS]),
            samples=int(work.size[state.W_SAMPLES]),
            sequences=int(work.size[state.W_SEQUENCES]),
            running=running,
            kv_tokens_read=int(work.size[state.W_KV_READ]),
            kv_tokens_decode=int(work.size[state.W_KV_DECODE]),
            attended_tokens=int(work.size[state.W_KV_DECODE] + work.size[state.W_ATTENDED]),
            nano_batches=nano_batches,
            available_pages=available(self.pool),
            hit_tokens=int(counts[state.HIT_TOKENS] - before[state.HIT_TOKENS]),
            recomputed_tokens=int(counts[state.RECOMPUTED_TOKENS] - before[state.RECOMPUTED_TOKENS]),
            evicted_pages=int(self.pool.counts[N_EVICTED]) - evicted,
            preemptions=int(counts[state.PREEMPTIONS] - before[state.PREEMPTIONS]),
        )
        if self.settings.verify:
            check(self.pool)
        return finished, sample

    def drain(self) -> list[Completion]:
        """Take in what is in flight without going on: before the engine is stopped."""
        finished = []
        while self._in_flight:
            finished += self._arrive(self._in_flight.popleft())
        return finished

    def give_back(self, giver: Giver) -> Int32:
        """Drop some requests that have not been begun, and return them, int32: they are never answered.

        The order of the others stays. Those that were preempted have been begun.
        """
        running = int(self.slots.counts[state.RUNNING])
        part = giver.part_of(waiting_requests(self.scan), running, self.requests.estimate)
        if part.shape[0]:
            self.scan = without(self.scan, part)
            self._given += part.shape[0]
        return part

    def _revise(self, reviser: Reviser) -> None:
        settings = self.settings
        self.scan = reviser.look(
            self.requests, self.slots, self.scan, self._ended, settings.page_size, settings.token_budget
        )

    def _schedule(self) -> bool:
        """Fill the step's work: preempt if memory is short, then admit, then build.

        Returns False if all that could go on waits for a result.
        """
        pool, requests, slots, scan = self.pool, self.requests, self.slots, self.scan
        for i in range(relieve(pool, requests, slots, scan, self._cost, self._preempted)):
            request, slot = self._preempted[i].tolist()
            for step in self._in_flight:
                flights.take_back(requests, step.flight, slot)
            self._constraints.forget(request)
            self._parked[request] = slots.output[slot, : requests.generated[request]].copy()
        settings = self.settings
        outlook, tokens = prepare(
            pool, requests, slots, scan, self._cost, settings.token_budget, settings.pacing
        )
        admitted = admit(pool, requests, slots, scan, outlook, tokens, self._rule)
        newcomers = slots.running[slots.counts[state.RUNNING] - admitted : slots.counts[state.RUNNING]]
        first_time = slots.request[newcomers]
        first_time = first_time[self._started_at[first_time] == 0]
        self._started_at[first_time] = time.time()
        if self._parked:
            for slot in newcomers.tolist():
                answer = self._parked.pop(int(slots.request[slot]), None)
                if answer is not None:
                    slots.output[slot, : len(answer)] = answer
        if scheduler.build(pool, requests, slots, self._work, tokens, rows=True):
            return True
        if not self._in_flight:
            raise CapacityError(f"no request can go on although {self.unfinished} are unfinished")

        return False

    def _launch(self) -> int:
        """Start the step in `_work`, let its sequences go on with placeholders; return its nano-batches."""
        count = int(self._work.size[state.W_SAMPLES])
        requests = self.slots.request[self._work.sample_slots[:count]].astype(np.int64)
        rows = self._logprobs.rows(requests)
        wish = LogprobWish(rows, self._logprobs.most(requests[rows]))
        limited = self._constraints.rows(requests)
        masks = None
        if len(limited):
            fill = partial(self._fill_masks, limited, requests[limited])
            masks = MaskWish(limited, self._constraints.words, fill)
        launched = self._runner.launch(self._work, self.slots, requests, wish, masks)
        flight = self._spare.pop()
        flights.assume(self.requests, self.slots, self._work, flight)
        self._in_flight.append(_InFlight(flight, launched))
        return launched.nano_batches

    def _fill_masks(self, samples: Int64, requests: Int64, out: Int32) -> None:
        """Write the masks of some samples of the step that is being launched.

        What they may take depends on the tokens of the step before, so its result is waited for. What is in
        flight then is this step alone, which the device computes meanwhile.
        """
        for step in self._in_flight:
            self._take_in(step)
        places = self.requests.generated[requests].tolist()
        slots = self._work.sample_slots[samples].tolist()
        answers = [self.slots.output[slot, :place] for slot, place in zip(slots, places, strict=True)]
        self._constraints.fill(requests.tolist(), answers, out)

    def _take_in(self, step: _InFlight) -> StepResult:
        """Wait for a step and put the tokens that it sampled in their places."""
        if step.result is None:
            step.result = step.launched.wait()
            flights.fill(self.requests, self.slots, step.flight, step.result.tokens, self._stops)
        return step.result

    def _arrive(self, step: _InFlight) -> list[Completion]:
        """Take in what a step sampled and take out the answers that are complete."""
        slots, requests = self.slots, self.requests
        result, flight = self._take_in(step), step.flight
        count = int(flight.size[0])
        live = flight.live[:count] == 1
        if result.logprobs is not None:
            self._logprobs.append(flight.request[:count], live, result.logprobs)
        for i, vector in result.embeddings.items():
            if live[i]:
                self._embeddings[int(flight.request[i])] = vector
        reasons = flight.reason[:count]
        watched = np.flatnonzero(self._checker.watched[flight.request[:count]] & live)
        if len(watched):
            last = slots.output[flight.slot[watched], flight.place[watched]]
            watched = watched[self._checker.may_stop(flight.request[watched], last)]
        for i in watched.tolist():
            request, slot = int(flight.request[i]), int(flight.slot[i])
            output = slots.output[slot, : flight.place[i] + 1]
            if reasons[i] != state.STOPPED and self._checker.stopped(request, output):
                reasons[i] = state.STOPPED
        for i in self._constraints.rows(flight.request[:count]).tolist():
            output = slots.output[flight.slot[i], : flight.place[i] + 1]
            if live[i] and self._constraints.ended(int(flight.request[i]), output):
                reasons[i] = state.STOPPED
        flights.end(requests, flight)
        done = np.flatnonzero(reasons != state.UNFINISHED)
        finished = [self._completion(int(flight.slot[i]), int(reasons[i])) for i in done.tolist()]
        ended = np.ascontiguousarray(flight.slot[done])
        for later in self._in_flight:
            self.surplus_tokens += sum(flights.forget(later.flight, slot) for slot in ended.tolist())
        scheduler.retire(self.pool, slots, self.scan, ended)
        self._spare.append(flight)
        return finished

    def _completion(self, slot: int, reason: int) -> Completion:
        request = int(self.slots.request[slot])
        output = self.slots.output[slot, : self.requests.generated[request]].copy()
        self._ended[request] = reason == state.STOPPED
        self._constraints.forget(request)
        embedding = self._embeddings.pop(request, None)
        if embedding is not None:
            output = output[:0]
        return Completion(
            request=request,
            token_ids=output,
            text=self._checker.text(request, output),
            finish_reason=REASONS[reason] if embedding is None else REASONS[state.STOPPED],
            cached_tokens=int(self.requests.hits[request]),
            started_at=float(self._started_at[request]),
            finished_at=time.time(),
            logprobs=self._logprobs.take(request),
            failure=self._constraints.failures.get(request),
            embedding=embedding,
        )
