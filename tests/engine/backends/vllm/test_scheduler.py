"""What is added to vLLM's scheduler, on a stand-in: preempted requests wait, and steps are taken down."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

from engine.backends.vllm.scheduler import make_scheduler_class, number_of


class Queue(deque):
    def add_request(self, request) -> None:
        self.append(request)

    def prepend_request(self, request) -> None:
        self.appendleft(request)

    def remove_request(self, request) -> None:
        self.remove(request)

    def remove_requests(self, requests) -> None:
        for request in requests:
            if request in self:
                self.remove(request)


class Base:
    """As much of vLLM's scheduler as is used; `plan` says how many tokens each request gets in a step."""

    def __init__(self) -> None:
        pool = SimpleNamespace(get_num_free_blocks=lambda: 5, metrics_collector=None)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)
        self.requests, self.running = {}, []
        self.plan, self.evict, self.victims = {}, 0, []

    def add(self, name: str, prompt: int, cached: int = 0) -> None:
        self.requests[name] = SimpleNamespace(
            request_id=name,
            num_prompt_tokens=prompt,
            num_tokens=prompt,
            num_computed_tokens=0,
            cached=cached,
            structured_output_request=None,
        )
        self.waiting.add_request(self.requests[name])

    def _preempt_request(self, request, timestamp: float) -> None:
        assert timestamp > 0
        request.num_computed_tokens = 0
        self.waiting.prepend_request(request)

    def schedule(self):
        new = []
        for name in self.victims:
            request = self.requests[name]
            self.running.remove(request)
            self._preempt_request(request, 1.0)
        self.victims = []
        for name, count in self.plan.items():
            request = self.requests[name]
            if request not in self.running:
                self.waiting.remove_request(request)
                self.running.append(request)
                if not hasattr(request, "seen"):
                    new.append(SimpleNamespace(req_id=name))
                request.seen = True
                request.num_computed_tokens = request.cached
            request.num_computed_tokens += count
        collector = self.kv_cache_manager.block_pool.metrics_collector
        for i in range(self.evict):
            collector.on_block_evicted(SimpleNamespace(block_hash=b"h" if i else None))
        return SimpleNamespace(scheduled_new_reqs=new, num_scheduled_tokens=dict(self.plan))


def made():
    return make_scheduler_class(Base, Queue)()


def test_a_step_is_taken_down() -> None:
    scheduler = made()
    scheduler.add("0-ab", prompt=40, cached=16)
    scheduler.add("1-cd", prompt=10)
    scheduler.plan, scheduler.evict = {"0-ab": 24, "1-cd": 6}, 3
    scheduler.schedule()
    found = scheduler.figures
    assert (found.tokens, found.prefill_tokens, found.decode_tokens, found.samples) == (30, 30, 0, 1)
    assert (found.hit_tokens, found.first, found.sequences, found.running) == (16, [0, 1], 2, 2)
    assert (found.kv_tokens_read, found.kv_tokens_decode) == (46, 0)
    assert found.attended_tokens == (24 * 16 + 24 * 25 // 2) + 6 * 7 // 2
    assert (found.available_pages, found.evicted_pages, found.preemptions) == (5, 2, 0)
    scheduler.requests["0-ab"].num_tokens = 41
    scheduler.plan, scheduler.evict = {"0-ab": 1, "1-cd": 4}, 0
    scheduler.schedule()
    found = scheduler.figures
    assert (found.prefill_tokens, found.decode_tokens, found.samples) == (4, 1, 2)
    assert (found.kv_tokens_read, found.kv_tokens_decode, found.attended_tokens) == (51, 41, 41 + 4 * 6 + 10)
    assert (found.hit_tokens, found.evicted_pages, found.first) == (0, 0, [])


class Grammar:
    """A constraint that is compiled once it has been asked for three times."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def is_grammar_ready(self) -> bool:
        self.asked += 1
        return self.asked >= 3


def test_a_step_waits_for_the_constraints_of_those_that_may_join() -> None:
    scheduler = made()
    for name in ("0-x", "1-x"):
        scheduler.add(name, prompt=10)
    grammar = scheduler.requests["1-x"].structured_output_request = Grammar()
    scheduler.plan = {"0-x": 10, "1-x": 10}
    scheduler.schedule()
    assert grammar.asked == 3
    # It runs, so nobody asks any more.
    scheduler.schedule()
    assert grammar.asked == 3


def test_preempted_requests_wait_until_they_are_let_in() -> None:
    scheduler = made()
    scheduler.hold_preempted()
    for i in range(3):
        scheduler.add(f"{i}-x", prompt=10)
    scheduler.plan = {"0-x": 10, "1-x": 8}
    scheduler.schedule()
    # One that runs, one that does not yet, one that is not there.
    scheduler.preempt([1, 2, 7])
    assert (len(scheduler.waiting), sorted(scheduler.waiting.held)) == (0, [1, 2])
    scheduler.plan, scheduler.victims = {}, ["0-x"]
    scheduler.schedule()
    assert (scheduler.figures.preemptions, scheduler.figures.put_back) == (2, [0])
    assert not scheduler.waiting.let_in(9)
    assert scheduler.waiting.let_in(1)
    assert scheduler.waiting.let_in(0)
    assert [number_of(one.request_id) for one in scheduler.waiting] == [1, 0]
    scheduler.requests["1-x"].cached = 3
    scheduler.plan = {"1-x": 7, "0-x": 10}
    scheduler.schedule()
    # Eight were computed before, three of them are still in the cache; and ten.
    assert (scheduler.figures.recomputed_tokens, scheduler.figures.preemptions) == (5 + 10, 0)
    assert scheduler.figures.hit_tokens == 0


def test_without_holding_vllm_lets_them_in_itself() -> None:
    scheduler = made()
    scheduler.add("0-x", prompt=10)
    scheduler.plan = {"0-x": 10}
    scheduler.schedule()
    scheduler.plan, scheduler.victims = {}, ["0-x"]
    scheduler.schedule()
    assert (len(scheduler.waiting), scheduler.waiting.held, scheduler.figures.put_back) == (1, {}, [0])


def test_what_has_ended_is_held_no_longer() -> None:
    scheduler = made()
    scheduler.hold_preempted()
    scheduler.add("4-x", prompt=10)
    scheduler.preempt([4])
    scheduler.waiting.remove_requests([scheduler.requests["4-x"]])
    assert scheduler.waiting.held == {}
