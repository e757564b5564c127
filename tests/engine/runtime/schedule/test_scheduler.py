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

from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.plan.policies import POLICIES, make_plan
from engine.plan.scan import LEFT, RIGHT, SIDES_MOVED, make_scan
from engine.runtime import state
from engine.runtime.kv.invariants import check
from engine.runtime.kv.pages import CACHED, N_EVICTED, available, make_pool
from engine.runtime.schedule import admission, forecast, pacing, preemption
from engine.runtime.schedule import flight as flights
from engine.runtime.schedule import step as scheduler
from tests.support.models import flatten

SHAPE = ModelShape(1000, 100, 2, 16, 64, 4400)
COST = step_cost(SHAPE, NOMINAL["cpu"])
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
        paced: bool = False,
    ) -> None:
        self.load, self.size, self.budget = load, size, budget
        # Preempt somebody at random before this part of the steps; admit for this many steps ahead.
        self.send_back, self.eager, self.paced = send_back, eager, paced
        self.rng = np.random.default_rng(size + budget)
        tokens, start = flatten(load.prompts)
        estimate = np.array(load.estimates)
        plan = make_plan(policy, tokens, start, estimate, SHAPE, NOMINAL["cpu"], seed=3)
        longest = max(len(p) + m for p, m in zip(load.prompts, load.limits, strict=True))
        pages = max(pages, -(-longest // size) + 1)
        self.n = len(load.prompts)
        self.pool = make_pool(pages, size, sequences)
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
            preemption.preempt(self.pool, requests, slots, self.scan, COST, place)
            # What is expected of somebody else changes, as it does when a run learns.
            requests.estimate[self.rng.integers(self.n)] *= self.rng.choice([0.3, 3.0])
            forecast.redraw(requests, slots, float(slots.counts[state.STEP] + 1), self.size, self.budget)
            self.scan.cursor[SIDES_MOVED] = 1
        preempted = np.zeros((slots.running.shape[0], 2), np.int32)
        for i in range(preemption.relieve(self.pool, requests, slots, self.scan, COST, preempted)):
            self.park(*preempted[i].tolist())
        outlook, self.step_tokens = pacing.prepare(
            self.pool, requests, slots, self.scan, COST, self.budget, self.paced
        )
        self.check_outlook(outlook)
        tokens = self.step_tokens * self.eager
        new = admission.admit(self.pool, requests, slots, self.scan, outlook, tokens, forecast.PEAK)
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
        tokens = scheduler.build(self.pool, self.requests, slots, work, self.step_tokens, rows=True)
        assert 0 < tokens <= self.step_tokens <= self.budget
        self.tokens += tokens
        self.compute(tokens)
        self.look_back()
        self.check_samples()
        sampled = np.zeros(int(work.size[state.W_SAMPLES]), np.int64)
        requests = slots.request[work.sample_slots[: len(sampled)]]
        for i, request in enumerate(requests.tolist()):
            sampled[i] = self.load.answers[request][self.requests.generated[request]]
        flight = flights.make_flight(slots.running.shape[0])
        flights.assume(self.requests, slots, work, flight)
        flights.fill(self.requests, slots, flight, sampled, np.array([STOP]))
        flights.end(self.requests, flight)
        reasons = flight.reason
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

    def check_outlook(self, outlook: pacing.Outlook) -> None:
        """The ledgers kept from step to step agree with a count of what runs."""
        slots, requests = self.slots, self.requests
        running = slots.running[: slots.counts[state.RUNNING]]
        ordered = slots.by_due[: slots.counts[state.RUNNING]]
        assert sorted(running.tolist()) == sorted(ordered.tolist())
        assert (np.diff(slots.due[ordered]) >= 0).all()
        assert (slots.due[running] > slots.counts[state.STEP]).all()
        known = [forecast.known_tokens(requests, r) for r in slots.request[running].tolist()]
        missing = np.array(known) - slots.computed[running]
        assert outlook.missing == missing[slots.prefilling[running] == 1].sum()
        assert outlook.decoding == (slots.prefilling[running] == 0).sum()
        # Who has computed its prompt lacks only the token sampled last.
        assert (missing[slots.prefilling[running] == 0] == 1).all()
        lines = slots.base[running] + (slots.counts[state.STEP] + 1) / self.size
        assert (slots.n_pages[running] <= lines + 1e-9).all()

    def check_pages(self) -> None:
        """Every sequence has real pages for all its known tokens, and owns its new ones alone."""
        slots, n = self.slots, self.shadow.shape[0]
        holders: Counter[int] = Counter()
        own: Counter[int] = Counter()
        for slot in slots.running[: slots.counts[state.RUNNING]].tolist():
            request = int(slots.request[slot])
            table = slots.pages[slot, : slots.n_pages[slot]].tolist()
            assert all(0 <= page < n for page in table)
            assert len(set(table)) == len(table)
            assert len(table) * self.size >= forecast.known_tokens(self.requests, request)
            holders.update(table)
            own.update(table[slots.shared[slot] :])
            if slots.source[slot] >= 0:
                holders[int(slots.source[slot])] += 1
        assert max(own.values(), default=0) <= 1
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
        places = list(zip(work.pages[:tokens].tolist(), work.offsets[:tokens].tolist(), strict=True))
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
            known = known[: forecast.known_tokens(self.requests, request)]
            assert work.positions[first:rows].tolist() == list(range(begin, begin + length))
            assert work.tokens[first:rows].tolist() == known[begin : begin + length]
            for row in range(first, rows):
                self.shadow[work.pages[row], work.offsets[row]] = self.prints[request][work.positions[row]]
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
            if work.context[i] == forecast.known_tokens(self.requests, int(slots.request[slot])):
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
        assert counts[state.PREEMPTIONS] == self.returned.total()
        assert self.scan.waiting == pytest.approx(0, abs=1e-6 * self.scan.compute.sum())
        prompt = sum(len(p) for p in self.load.prompts)
        decode = sum(len(a) - 1 for a in self.load.answers)
        assert counts[state.PREFILL_TOKENS] + counts[state.DECODE_TOKENS] == self.tokens
        assert counts[state.HIT_TOKENS] == self.requests.hits.sum()
        if not self.returned:
            assert counts[state.PREFILL_TOKENS] + counts[state.HIT_TOKENS] == prompt
            assert counts[state.DECODE_TOKENS] == decode
            assert counts[state.RECOMPUTED_TOKENS] == 0
        self.events["preemptions"] += int(counts[state.PREEMPTIONS])
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
    st.sampled_from([(0.0, 1), (0.2, 1), (0.2, 6), (0.0, 1, True)]),
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
    for event in ("copies", "followers in the leader's step", "preemptions", "evictions", "recomputed"):
        assert events[event] > 0, event


def test_a_follower_takes_over_from_a_preempted_leader() -> None:
    # Admission fills one step only, so a follower rarely waits long enough to see its leader go.
    events: Counter[str] = Counter()
    for seed in range(20):
        load = random_load(seed, count=20, longest=30)
        events += Drive(load, "fcfs", 40, 1 + seed % 6, 8, 8, send_back=0.3, eager=6).run().events
    assert events["takeovers"] > 0


def test_with_enough_memory_all_sharing_is_used_and_nothing_is_preempted() -> None:
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
    order = drive.scan.left.tolist()
    assert drive.run().order == order


def test_a_follower_does_not_wait_while_its_leader_generates() -> None:
    """The end of a twin's prompt is ready once computed; the answer in the same page changes nothing."""
    load = Load([[2] * 9, [2] * 9], [[3] * 7, [3] * 7], [7, 7], [7.0, 7.0])
    drive = Drive(load, "fcfs", 10, 16, 16, 2)
    for _ in range(2):
        drive.step()
    assert drive.requests.generated.tolist() == [2, 1]


def blended(costs, load: Load, pages: int, budget: int = 64) -> Drive:
    drive = Drive(load, "blend", pages, 4, budget, 4)
    compute, memory = costs
    order = np.arange(len(compute), dtype=np.int32)
    lengths = np.array(load.estimates)
    drive.scan = make_scan(order, np.array(compute, float), np.array(memory, float), lengths, two_sided=True)
    return drive


def test_long_answers_go_first_and_then_the_other_side() -> None:
    load = Load([[2] * 4, [3] * 4, [4] * 4], [[2] * 2, [2] * 2, [2] * 9], [2, 2, 9], [2.0, 2.0, 9.0])
    drive = blended(([5, 5, 1], [1, 1, 4]), load, 40)
    drive.schedule()
    assert drive.order == [2, 0, 1]
    assert drive.slots.side[drive.slots.running[:3]].tolist() == [RIGHT, LEFT, LEFT]


@pytest.mark.parametrize(("scale", "order"), [(100.0, [1, 3, 0]), (1.0, [1, 2, 3, 0])])
def test_the_heavy_side_keeps_to_its_share_and_takes_the_longest_that_fits(scale: float, order) -> None:
    # Memory 4 of 10 on the left: of 40 pages the right side may hold (1 - 0.5 * 0.4) * 40 = 32 at its peak,
    # just not two of 60; where memory limits the run (1 - 0.35 * 0.4) * 40 = 34.4.
    answers = [2, 60, 60, 20]
    load = Load([[2 + i] * 4 for i in range(4)], [[2] * n for n in answers], answers, [*map(float, answers)])
    drive = blended((scale * np.array([8, 0.1, 0.1, 0.1]), [4, 2.5, 2.5, 1]), load, 40)
    drive.schedule()
    # One of 60 takes 16 pages or a little more.
    assert drive.order == order


def test_the_heavy_side_is_not_kept_waiting_by_a_share_too_small_for_it() -> None:
    load = Load([[2] * 4, [3] * 4], [[2] * 2, [2] * 60], [2, 60], [2.0, 60.0])
    drive = blended(([9, 0.001], [4, 0.01]), load, 40)
    drive.schedule()
    assert drive.order == [1, 0]


def test_the_other_side_goes_where_the_first_does_not_fit() -> None:
    load = Load([[2] * 12, [3] * 24, [4] * 4], [[2] * 2] * 3, [2] * 3, [2.0] * 3)
    drive = blended(([1, 8, 1], [1, 1, 2]), load, 8)
    drive.scan.waiting[:] = 10.0, 1.0, 100.0
    drive.schedule()
    # The long prompts of both sides do not fit beside each other; the short one does.
    assert drive.order == [0, 2]


def test_answers_that_turn_out_long_give_back_the_room_of_the_other_side() -> None:
    """Four seem short and are admitted; then they are expected to be long, and somebody waits beside them."""
    load = Load([[2 + i] * 4 for i in range(5)], [[2] * 90] * 4 + [[2] * 2], [90] * 4 + [2], [6.0] * 4 + [2])
    drive = blended(([1, 1, 1, 1, 30], [3, 3, 3, 3, 10]), load, 60)
    for _ in range(3):
        drive.step()
    running = drive.slots.running[: drive.slots.counts[state.RUNNING]]
    assert (drive.slots.side[running] == RIGHT).all()
    drive.requests.estimate[:4] = 90.0
    forecast.redraw(drive.requests, drive.slots, float(drive.slots.counts[state.STEP] + 1), 4, 64)
    before = int(drive.slots.counts[state.RUNNING])
    drive.step()
    assert not drive.returned, "time alone sends nobody back"
    drive.scan.cursor[SIDES_MOVED] = 1
    drive.step()
    assert 0 < drive.returned.total() < before
    assert drive.admissions[4] == 1
    drive.run()
    assert all(drive.finished[i] == 1 for i in range(5))


SEQUENCE = st.tuples(st.integers(1, 30), st.integers(1, 30))


@settings(deadline=None)
@given(st.lists(SEQUENCE, max_size=7), SEQUENCE, st.integers(1, 5))
def test_the_forecast_bounds_a_simulation_closely(running, candidate, size: int) -> None:
    """Known lengths: never below the true peak while the candidate runs, less than a page each above."""
    everyone = [*running, candidate]
    peak = 0
    # What is held once the candidate has ended does not speak against it.
    for t in range(candidate[1]):
        peak = max(peak, sum(-(-(prompt + t) // size) for prompt, answer in everyone if t < answer))
    load = Load(
        [[2 + i] * p for i, (p, _) in enumerate(everyone)],
        [[2] * a for _, a in everyone],
        *[[a for _, a in everyone] for _ in range(2)],
    )
    drive = Drive(load, "fcfs", 4000, size, 4000, len(everyone))
    for i in range(len(running)):
        assert admission._place(drive.pool, drive.requests, drive.slots, i, 0.0, forecast.PEAK) >= 0
    due, base = forecast.draw(drive.requests, len(running), 1.0, 0.0, size)
    found = forecast.peak(drive.pool, drive.slots, due, base, 0)
    assert peak <= found + 1e-9 < peak + len(everyone)


def test_exact_lengths_and_no_sharing_never_preempt() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        answers = rng.integers(1, 40, 30).tolist()
        prompts = [[2 + i, *rng.integers(2, 5, int(rng.integers(0, 20))).tolist()] for i in range(30)]
        load = Load(prompts, [[2] * n for n in answers], answers, [*map(float, answers)])
        drive = Drive(load, "blend", 40, 1 + seed % 6, 60, 20, paced=seed % 2 == 1).run()
        assert not drive.returned


def test_expected_output_is_stretched_once_outgrown_and_capped() -> None:
    load = Load([[2]], [[2] * 40], [40], [8.0])
    drive = Drive(load, "fcfs", 20, 4, 16, 2)
    seen = []
    for done in (0, 4, 12, 39):
        drive.requests.generated[0] = done
        seen.append(forecast.expected_output(drive.requests, 0))
    assert seen == [8.0, 8.0, 16.0, 40.0]


def test_cached_pages_stay_after_the_last_request() -> None:
    drive = Drive(random_load(2), "dfs", 200, 4, 32, 6).run()
    assert (drive.pool.state[:-1] == CACHED).any()
