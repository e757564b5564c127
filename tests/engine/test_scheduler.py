"""The scheduler without a model: what it computes, where it puts it, and what it reads back.

A shadow of the KV memory holds, for each place, a fingerprint of the whole prefix that its token ends: a key
or value depends on all the tokens before it, so a place with the right token after a wrong prefix is wrong.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import flatten

from engine.cost import NOMINAL, ModelShape
from engine.plan.policies import POLICIES, make_plan
from engine.plan.scan import LEFT, RIGHT, make_scan
from engine.runtime import admission, scheduler, state
from engine.runtime.pages import CACHED, N_EVICTED, available, check, make_pool

SHAPE = ModelShape(1000, 100, 2, 16, 64, 4400)
STOP = 1


@dataclass
class Load:
    """Prompts, the answers a model would give (the last token is STOP or the limit is reached), estimates."""

    prompts: list[list[int]]
    answers: list[list[int]]
    limits: list[int]
    estimates: list[float]


def fingerprints(tokens: list[int]) -> np.ndarray:
    out, h = [], 17
    for token in tokens:
        h = (h * 6364136223846793005 + token + 1442695040888963407) % (1 << 63)
        out.append(h)
    return np.array(out, np.int64)


def random_load(seed: int, count: int = 18, longest: int = 24, answer: int = 20, wrong: float = 1.0) -> Load:
    rng = np.random.default_rng(seed)
    stems = [rng.integers(2, 5, int(rng.integers(1, longest))).tolist() for _ in range(3)]
    prompts, answers, limits, estimates = [], [], [], []
    for _ in range(count):
        stem = stems[int(rng.integers(3))]
        prompt = stem[: int(rng.integers(0, len(stem) + 1))]
        prompt = prompt + rng.integers(2, 5, int(rng.integers(0, 6))).tolist()
        if prompts and rng.random() < 0.2:
            prompt = prompts[int(rng.integers(len(prompts)))]
        prompt = prompt or [2]
        limit = int(rng.integers(1, answer + 1))
        length = limit if rng.random() < 0.5 else int(rng.integers(1, limit + 1))
        output = rng.integers(2, 5, length).tolist()
        if length < limit:
            output[-1] = STOP
        prompts.append(prompt)
        answers.append(output)
        limits.append(limit)
        estimates.append(max(1.0, min(limit, length * wrong * float(rng.uniform(0.5, 1.5)))))
    return Load(prompts, answers, limits, estimates)


class Drive:
    """Runs a load to its end and checks every step."""

    def __init__(
        self,
        load: Load,
        policy: str,
        pages: int,
        size: int,
        budget: int,
        sequences: int,
        send_back: float = 0.0,
        eager: int = 1,
    ) -> None:
        self.load, self.size, self.budget = load, size, budget
        # Retract somebody at random before this part of the steps; admit for this many steps ahead.
        self.send_back, self.eager = send_back, eager
        self.rng = np.random.default_rng(size + budget)
        tokens, start = flatten(load.prompts)
        estimate = np.array(load.estimates)
        plan = make_plan(policy, tokens, start, estimate, SHAPE, NOMINAL["cpu"], seed=3)
        longest = max(len(p) + m for p, m in zip(load.prompts, load.limits, strict=True))
        pages = max(pages, -(-longest // size) + 1)
        self.n = len(load.prompts)
        self.pool = make_pool(pages, size)
        limits = np.array(load.limits, np.int32)
        self.requests = state.make_requests(tokens, start, limits, estimate, np.zeros(self.n, np.int8))
        self.slots = state.make_slots(sequences, -(-longest // size) + 1, max(load.limits))
        self.work = state.make_work(budget, sequences)
        self.scan = plan.scan()
        self.prints = [fingerprints(p + a) for p, a in zip(load.prompts, load.answers, strict=True)]
        self.shadow = np.zeros((pages, size), np.int64)
        self.admissions: Counter[int] = Counter()
        self.order: list[int] = []
        self.returned: Counter[int] = Counter()
        self.finished: Counter[int] = Counter()
        self.events: Counter[str] = Counter()
        self.parked: dict[int, np.ndarray] = {}
        self.tokens = 0

    def run(self) -> Drive:
        while len(self.finished) < self.n:
            self.step()
            assert self.slots.counts[state.STEP] < 5000, "no progress"
        self.check_end()
        return self

    def schedule(self) -> None:
        slots, requests = self.slots, self.requests
        running = int(slots.counts[state.RUNNING])
        if running and self.rng.random() < self.send_back:
            # Whoever it hits: leaders in the middle of a page, followers, sources of a copy.
            place = int(self.rng.integers(running))
            slot = int(slots.running[place])
            self.park(int(slots.request[slot]), slot)
            admission._retract(self.pool, requests, slots, self.scan, place)
        retracted = np.zeros((slots.running.shape[0], 2), np.int32)
        for i in range(admission.relieve(self.pool, requests, slots, self.scan, retracted)):
            self.park(*retracted[i].tolist())
        new = admission.admit(self.pool, requests, slots, self.scan, self.budget * self.eager)
        running = slots.counts[state.RUNNING]
        for slot in slots.running[running - new : running].tolist():
            request = int(slots.request[slot])
            self.admissions[request] += 1
            self.order.append(request)
            answer = self.parked.pop(request, np.zeros(0, np.int32))
            slots.output[slot, : len(answer)] = answer

    def park(self, request: int, slot: int) -> None:
        self.parked[request] = self.slots.output[slot, : self.requests.generated[request]].copy()
        self.returned[request] += 1

    def step(self) -> None:
        self.schedule()
        self.check_pages()
        work, slots = self.work, self.slots
        tokens = scheduler.build(self.pool, self.requests, slots, work, self.budget)
        assert 0 < tokens <= self.budget
        self.tokens += tokens
        self.compute(tokens)
        self.look_back()
        self.check_samples()
        sampled = np.zeros(int(work.size[state.W_SAMPLES]), np.int64)
        requests = slots.request[work.sample_slots[: len(sampled)]]
        for i, request in enumerate(requests.tolist()):
            sampled[i] = self.load.answers[request][self.requests.generated[request]]
        reasons = np.zeros(len(sampled) + 1, np.int8)
        scheduler.commit(self.requests, slots, work, sampled, np.array([STOP]), reasons)
        done = []
        for i, request in enumerate(requests.tolist()):
            complete = self.requests.generated[request] == len(self.load.answers[request])
            expected = state.UNFINISHED
            if complete:
                expected = state.STOPPED if sampled[i] == STOP else state.LENGTH
                done.append(int(work.sample_slots[i]))
                self.finished[request] += 1
                answer = slots.output[done[-1], : self.requests.generated[request]]
                assert answer.tolist() == self.load.answers[request]
            assert reasons[i] == expected
        scheduler.retire(self.pool, slots, self.scan, np.array(done, np.int32))
        check(self.pool)

    def check_pages(self) -> None:
        """Every sequence has real pages for all its known tokens, and owns its fresh ones alone."""
        slots, n = self.slots, self.shadow.shape[0]
        holders: Counter[int] = Counter()
        fresh: Counter[int] = Counter()
        for slot in slots.running[: slots.counts[state.RUNNING]].tolist():
            request = int(slots.request[slot])
            table = slots.pages[slot, : slots.n_pages[slot]].tolist()
            assert all(0 <= page < n for page in table)
            assert len(set(table)) == len(table)
            assert len(table) * self.size >= admission.known_tokens(self.requests, request)
            holders.update(table)
            fresh.update(table[slots.shared[slot] :])
            if slots.source[slot] >= 0:
                holders[int(slots.source[slot])] += 1
        assert max(fresh.values(), default=0) <= 1
        nodes = [self.node(page) for page in np.flatnonzero(self.pool.state[:n] == CACHED).tolist()]
        assert len(set(nodes)) == len(nodes), "two nodes stand for the same tokens"
        assert {p: int(r) for p, r in enumerate(self.pool.ref[:n]) if r} == dict(holders)
        assert len(holders) + available(self.pool) == n

    def node(self, page: int) -> tuple[int, ...]:
        return int(self.pool.parent[page]), *self.pool.tokens[page, : self.pool.length[page]].tolist()

    def compute(self, tokens: int) -> None:
        """Copy and store as the model runner does."""
        work, slots = self.work, self.slots
        for source, target, count in work.copies[: work.size[state.W_COPIES]].tolist():
            self.shadow[target, :count] = self.shadow[source, :count]
            self.events["copies"] += 1
        places = list(zip(work.pages[:tokens].tolist(), work.slots[:tokens].tolist(), strict=True))
        assert len(set(places)) == tokens, "two tokens share a place"
        rows = 0
        for i in range(int(work.size[state.W_SEQUENCES])):
            slot, first, length = int(work.slot[i]), int(work.first[i]), int(work.length[i])
            assert first == rows
            assert length > 0
            rows += length
            request = int(slots.request[slot])
            begin = int(work.context[i]) - length
            known = self.load.prompts[request] + self.load.answers[request]
            known = known[: admission.known_tokens(self.requests, request)]
            assert work.positions[first:rows].tolist() == list(range(begin, begin + length))
            assert work.tokens[first:rows].tolist() == known[begin : begin + length]
            for row in range(first, rows):
                self.shadow[work.pages[row], work.slots[row]] = self.prints[request][work.positions[row]]
        assert rows == tokens

    def look_back(self) -> None:
        """Each sequence finds the right token behind the right prefix in every place it attends to."""
        work, slots = self.work, self.slots
        written = {p: i for i in range(int(work.size[state.W_SEQUENCES])) for p in self.pages_written(i)}
        for i in range(int(work.size[state.W_SEQUENCES])):
            slot, context = int(work.slot[i]), int(work.context[i])
            table = slots.pages[slot, : slots.n_pages[slot]]
            seen = self.shadow[table].reshape(-1)[:context]
            assert (seen == self.prints[int(slots.request[slot])][:context]).all()
            shared = table[: slots.shared[slot]].tolist()
            if any(written.get(page, i) != i for page in shared):
                self.events["followers in the leader's step"] += 1
            if any(written.get(page) == i for page in shared):
                self.events["takeovers"] += 1

    def pages_written(self, i: int) -> list[int]:
        first, length = int(self.work.first[i]), int(self.work.length[i])
        return self.work.pages[first : first + length].tolist()

    def check_samples(self) -> None:
        """A token is drawn from exactly the last known token of each sequence that has caught up."""
        work, slots = self.work, self.slots
        expected = []
        for i in range(int(work.size[state.W_SEQUENCES])):
            slot = int(work.slot[i])
            if work.context[i] == admission.known_tokens(self.requests, int(slots.request[slot])):
                expected.append((int(work.first[i] + work.length[i] - 1), slot))
        count = int(work.size[state.W_SAMPLES])
        rows = zip(work.sample_rows[:count].tolist(), work.sample_slots[:count].tolist(), strict=True)
        assert list(rows) == expected

    def check_end(self) -> None:
        counts = self.slots.counts
        assert counts[state.RUNNING] == 0
        assert sorted(self.slots.vacant.tolist()) == list(range(self.slots.vacant.shape[0]))
        assert (self.pool.ref == 0).all()
        assert (self.pool.owner == -1).all()
        assert available(self.pool) == self.shadow.shape[0]
        assert set(self.finished) == set(range(self.n))
        assert set(self.finished.values()) == {1}
        assert all(self.admissions[i] == 1 + self.returned[i] for i in range(self.n))
        assert counts[state.FINISHED] == self.n
        assert counts[state.RETRACTIONS] == self.returned.total()
        assert self.scan.remaining == pytest.approx(0, abs=1e-9 * self.scan.compute.sum())
        prompt = sum(len(p) for p in self.load.prompts)
        decode = sum(len(a) - 1 for a in self.load.answers)
        assert counts[state.PREFILL_TOKENS] + counts[state.DECODE_TOKENS] == self.tokens
        assert counts[state.HIT_TOKENS] == self.requests.hits.sum()
        if not self.returned:
            assert counts[state.PREFILL_TOKENS] + counts[state.HIT_TOKENS] == prompt
            assert counts[state.DECODE_TOKENS] == decode
            assert counts[state.RECOMPUTED_TOKENS] == 0
        self.events["retractions"] += int(counts[state.RETRACTIONS])
        self.events["evictions"] += int(self.pool.counts[N_EVICTED])
        self.events["recomputed"] += int(counts[state.RECOMPUTED_TOKENS])


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(POLICIES)),
    st.integers(4, 60),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 40),
    st.sampled_from([0.1, 0.25, 1.0, 4.0]),
    st.sampled_from([(0.0, 1), (0.2, 1), (0.2, 6)]),
)
def test_every_step_of_any_load(seed, policy, pages, size, sequences, extra, wrong, trouble) -> None:
    load = random_load(seed, count=12, wrong=wrong)
    Drive(load, policy, pages, size, sequences + extra, sequences, *trouble).run()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_little_memory_and_short_estimates_reach_every_branch(policy: str) -> None:
    """The property above is only worth what its runs reach; this says that they reach all of it."""
    events: Counter[str] = Counter()
    for seed in range(12):
        load = random_load(seed, count=24, wrong=0.2)
        events += Drive(load, policy, 14, 1 + seed % 5, 8 + seed, 8).run().events
    for event in ("copies", "followers in the leader's step", "retractions", "evictions", "recomputed"):
        assert events[event] > 0, event


def test_a_follower_takes_over_from_a_retracted_leader() -> None:
    # Admission fills one step only, so a follower rarely waits long enough to see its leader go.
    events: Counter[str] = Counter()
    for seed in range(20):
        load = random_load(seed, count=20, longest=30)
        events += Drive(load, "fcfs", 40, 1 + seed % 6, 8, 8, send_back=0.3, eager=6).run().events
    assert events["takeovers"] > 0


def test_with_enough_memory_all_sharing_is_used_and_nothing_is_retracted() -> None:
    load = random_load(7, count=30)
    drive = Drive(load, "dfs", 600, 4, 64, 30)
    tokens, start = flatten(load.prompts)
    plan = make_plan("dfs", tokens, start, np.ones(30), SHAPE, NOMINAL["cpu"])
    drive.run()
    assert drive.slots.counts[state.HIT_TOKENS] == round(plan.hit_rate_optimum * len(tokens))
    assert not drive.returned
    assert drive.pool.counts[N_EVICTED] == 0


@pytest.mark.parametrize("policy", ["fcfs", "random", "dfs"])
def test_one_sided_policies_admit_in_their_order(policy: str) -> None:
    load = random_load(11, count=20)
    drive = Drive(load, policy, 400, 4, 16, 6)
    order = drive.scan.order.tolist()
    assert drive.run().order == order


def test_a_follower_does_not_wait_while_its_leader_generates() -> None:
    """The end of a twin's prompt is ready once computed; the answer in the same page changes nothing."""
    load = Load([[2] * 9, [2] * 9], [[3] * 7, [3] * 7], [7, 7], [7.0, 7.0])
    drive = Drive(load, "fcfs", 10, 16, 16, 2)
    for _ in range(2):
        drive.step()
    assert drive.requests.generated.tolist() == [2, 1]


def test_the_other_side_goes_where_the_preferred_one_does_not_fit() -> None:
    # The left request is preferred at first but needs 6 of 8 pages while 3 are held.
    prompts = [[2] * 12, [3] * 24, [4] * 4]
    load = Load(prompts, [[2] * 2] * 3, [2] * 3, [2.0] * 3)
    drive = Drive(load, "blend", 8, 4, 64, 4)
    costs = np.array([1.0, 8.0, 1.0]), np.array([1.0, 1.0, 2.0])
    drive.scan = make_scan(np.array([0, 1, 2], np.int32), *costs, two_sided=True)
    drive.scan.remaining[:] = 100.0, 1.0  # prefers the left side throughout
    drive.schedule()
    assert drive.order == [0, 2]
    assert drive.slots.side[:2].tolist() != [LEFT, LEFT]
    running = drive.slots.running[:2]
    assert drive.slots.side[running].tolist() == [LEFT, RIGHT]


SEQUENCE = st.tuples(st.integers(0, 30), st.integers(0, 30))


@settings(deadline=None)
@given(st.lists(SEQUENCE, max_size=7), SEQUENCE)
def test_predicted_peak_is_that_of_a_simulation(running, candidate) -> None:
    running = sorted(running)
    everyone = [*running, candidate]
    now = sum(own for _, own in running)
    peak = 0
    for t in range(max(r for r, _ in everyone) + 1):
        held = sum(own + t for remaining, own in everyone if remaining >= t)
        peak = max(peak, held - now)
    remaining = np.array([r for r, _ in running], np.float64)
    own = np.array([o for _, o in running], np.float64)
    assert admission.predicted_peak(remaining, own, *map(float, candidate)) == max(peak, candidate[1])


def test_side_ledger_counts_prompt_and_half_the_answer() -> None:
    load = Load([[2] * 10, [3] * 4], [[2] * 6, [3] * 8], [6, 8], [6.0, 8.0])
    drive = Drive(load, "fcfs", 20, 4, 16, 2)
    drive.schedule()
    drive.slots.side[drive.slots.running[1]] = RIGHT
    assert admission.side_loads(drive.requests, drive.slots) == (13.0, 8.0)


def test_expected_output_is_stretched_once_outgrown_and_capped() -> None:
    load = Load([[2]], [[2] * 40], [40], [8.0])
    drive = Drive(load, "fcfs", 20, 4, 16, 2)
    seen = []
    for done in (0, 4, 12, 39):
        drive.requests.generated[0] = done
        seen.append(admission.expected_output(drive.requests, 0))
    assert seen == [8.0, 8.0, 16.0, 40.0]


def test_cached_pages_stay_after_the_last_request() -> None:
    drive = Drive(random_load(2), "dfs", 200, 4, 32, 6).run()
    assert (drive.pool.state[:-1] == CACHED).any()
