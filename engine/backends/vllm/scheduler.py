"""vLLM's scheduler with two additions: what was preempted waits for us, and every step is taken down.

What decides within a step is vLLM's own code. It is touched in three places: the queue `waiting`, the limit
`max_num_scheduled_tokens`, which it reads at the start of each step, and `_preempt_request`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    # vLLM is not there where types are checked.
    _Base = Any
else:
    _Base = object

NEEDED: Final = ("schedule", "_preempt_request")
"""Methods of vLLM's scheduler that we call or extend; where one is missing, vLLM is fed from outside."""
_LOOK_S: Final = 0.0005
"""Between two looks whether a grammar is compiled, which takes a millisecond or a few."""


@dataclass
class StepFigures:
    """What one step of vLLM computed; the numbers are those of `engine.cost.metrics.StepSample`.

    Attributes
    ----------
    put_back
        Requests that vLLM has preempted by itself.
    first
        Requests that were computed for the first time.
    """

    tokens: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    samples: int = 0
    sequences: int = 0
    running: int = 0
    kv_tokens_read: int = 0
    kv_tokens_decode: int = 0
    attended_tokens: int = 0
    available_pages: int = 0
    hit_tokens: int = 0
    recomputed_tokens: int = 0
    evicted_pages: int = 0
    preemptions: int = 0
    put_back: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)


def number_of(request_id: str) -> int:
    """Return the number in the job of a request of vLLM's, which adds letters of its own to the name."""
    return int(request_id.partition("-")[0])


def make_scheduler_class(base: type[Any], queue: type[Any]) -> type[Any]:
    """Return a scheduler class for `EngineArgs.scheduler_cls`.

    Parameters
    ----------
    base
        vLLM's `Scheduler`, or `AsyncScheduler` where steps are launched ahead.
    queue
        vLLM's `FCFSRequestQueue`.
    """
    place = {"__module__": __name__}
    holding = type("HoldingQueue", (_Holding, queue), place)
    return type("NightblendScheduler", (_Recording, base), {**place, "queue_class": holding})


class _Holding(_Base):  # type: ignore[misc]
    """A queue with those that may be admitted now; preempted ones are kept in `held` if it `holds`."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        self.held: dict[int, Any] = {}
        self.preempted: list[int] = []

    def prepend_request(self, request: Any) -> None:  # noqa: ANN401 - vLLM's `Request`
        """Take back a request that has been preempted."""
        number = number_of(request.request_id)
        self.preempted.append(number)
        if self.holds:
            self.held[number] = request
        else:
            super().prepend_request(request)

    def let_in(self, number: int) -> bool:
        """Put a request that is held at the end of the queue; False if it is not held."""
        request = self.held.pop(number, None)
        if request is not None:
            self.add_request(request)
        return request is not None

    def keep_back(self, numbers: set[int]) -> None:
        """Hold requests that wait to be computed for the first time."""
        for request in [one for one in self if number_of(one.request_id) in numbers]:
            self.remove_request(request)
            self.held[number_of(request.request_id)] = request

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Forget requests that have ended."""
        gone = list(requests)
        for request in gone:
            self.held.pop(number_of(request.request_id), None)
        super().remove_requests(gone)


class _Recording(_Base):  # type: ignore[misc]
    """A scheduler of vLLM's that takes down every step in `figures`."""

    queue_class: type[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - vLLM's own
        super().__init__(*args, **kwargs)
        self.waiting = self.queue_class()
        self.figures = StepFigures()
        # Of preempted requests, how many tokens they had computed; and preemptions that we have ordered.
        self._stored: dict[int, int] = {}
        self._ordered = 0
        self._evictions = _Evictions()
        self.kv_cache_manager.block_pool.metrics_collector = self._evictions

    def hold_preempted(self) -> None:
        """Keep preempted requests aside from now on, until they are let in."""
        self.waiting.holds = True

    def preempt(self, numbers: list[int]) -> None:
        """Preempt requests now, before the next step; those that do not run yet only wait again."""
        if not numbers:
            return
        wanted = set(numbers)
        for request in [one for one in self.running if number_of(one.request_id) in wanted]:
            self._stored[number_of(request.request_id)] = request.num_computed_tokens
            self.running.remove(request)
            self._preempt_request(request, time.monotonic())
        self.waiting.keep_back(wanted)
        self._ordered = len(self.waiting.preempted)
        self.waiting.preempted.clear()

    def schedule(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - vLLM's own
        """Let vLLM make the next step, and take it down."""
        computed = {one.request_id: one.num_computed_tokens for one in self.running}
        self._evictions.count = 0
        self._await_grammars()
        output = super().schedule(*args, **kwargs)
        self.figures = self._taken_down(output, computed)
        return output

    def _await_grammars(self) -> None:
        """Wait for the grammars of waiting requests: vLLM would take others before them meanwhile."""
        for request in self.waiting:
            asked = request.structured_output_request
            while asked is not None and not asked.is_grammar_ready:
                time.sleep(_LOOK_S)

    def _taken_down(self, output: Any, computed: dict[str, int]) -> StepFigures:  # noqa: ANN401 - vLLM's own
        """Return the figures of a step; `computed` is how far the running requests were before it."""
        found = StepFigures(put_back=list(self.waiting.preempted))
        self.waiting.preempted.clear()
        before = {number_of(name): tokens for name, tokens in computed.items()}
        for number in found.put_back:
            self._stored[number] = before.get(number, 0)
        found.preemptions, self._ordered = len(found.put_back) + self._ordered, 0
        new = {one.req_id for one in output.scheduled_new_reqs}
        for name, count in output.num_scheduled_tokens.items():
            request = self.requests[name]
            # It is counted as computed already.
            end = request.num_computed_tokens
            start, number = end - count, number_of(name)
            if name in new:
                found.hit_tokens += start
                found.first.append(number)
            elif name not in computed:
                found.recomputed_tokens += max(0, self._stored.pop(number, 0) - start)
            found.tokens += count
            found.kv_tokens_read += end
            if start < request.num_prompt_tokens:
                found.prefill_tokens += count
                found.attended_tokens += count * start + count * (count + 1) // 2
            else:
                found.decode_tokens += count
                found.kv_tokens_decode += end
                found.attended_tokens += end
            found.samples += end >= request.num_tokens
        found.sequences = len(output.num_scheduled_tokens)
        found.running = len(self.running)
        found.available_pages = self.kv_cache_manager.block_pool.get_num_free_blocks()
        found.evicted_pages = self._evictions.count
        return found


class _Evictions:
    """Counts cached blocks that are given up; has what vLLM asks of a collector of metrics."""

    def __init__(self) -> None:
        self.count = 0

    def on_block_allocated(self, block: Any) -> None:  # noqa: ANN401 - vLLM's block
        """Nothing is kept of it."""

    def on_block_accessed(self, block: Any) -> None:  # noqa: ANN401 - vLLM's block
        """Nothing is kept of it."""

    def on_block_evicted(self, block: Any) -> None:  # noqa: ANN401 - vLLM's block
        """Count a block that stands for tokens; vLLM asks for others as well."""
        self.count += block.block_hash is not None
