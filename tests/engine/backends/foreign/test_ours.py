"""Our scheduler beside an engine decides as our own engine does, and bears what the engine does itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from engine.backends.foreign.order import AHEAD, Window
from engine.backends.foreign.ours import OurScheduler, admission_order
from engine.cost.step import NOMINAL, ModelShape, step_cost
from engine.errors import CapacityError
from engine.models.config import load_config
from engine.plan.policies import make_plan
from engine.runtime.sample.settings import Sampling
from engine.runtime.settings import EngineSettings
from engine.simulate.simulate import simulate
from tests.support.models import flatten
from tests.support.paths import DEMO_MODEL

SHAPE = ModelShape.of(load_config(DEMO_MODEL))
COST = step_cost(SHAPE, NOMINAL["a100"])
LIMIT = 60


def a_job(policy: str, count: int = 60, seed: int = 4):
    """Return a job of prompts with shared prefixes and answers of many lengths, and those lengths."""
    rng = np.random.default_rng(seed)
    bases = [rng.integers(4, 97, 50).tolist() for _ in range(4)]
    prompts = [
        bases[int(rng.integers(4))][: int(rng.integers(10, 50))]
        + rng.integers(4, 97, int(rng.integers(2, 40))).tolist()
        for _ in range(count)
    ]
    lengths = rng.integers(1, LIMIT, count).astype(np.int32)
    tokens, offsets = flatten(prompts)
    estimate = np.clip(lengths * rng.uniform(0.3, 1.1, count), 1, LIMIT)
    plan = make_plan(policy, tokens, offsets, estimate, SHAPE, NOMINAL["a100"], seed=5)
    sampling = [Sampling(max_tokens=LIMIT)] * count
    return SimpleNamespace(tokens=tokens, offsets=offsets, sampling=sampling, plan=plan), lengths


def sizes(**changed) -> EngineSettings:
    given = {"kv_tokens": 640, "page_size": 8, "token_budget": 64, "max_sequences": 12, "pacing": True}
    return EngineSettings(**given | changed)


def scheduler(job, settings: EngineSettings) -> OurScheduler:
    return OurScheduler(job, np.full(len(job.sampling), LIMIT, np.int32), settings, COST, None)


class Engine:
    """An engine that computes at once what is decided, and may put requests back by itself."""

    def __init__(self, ours: OurScheduler, lengths: np.ndarray) -> None:
        self.ours, self.lengths = ours, lengths
        self.generated = np.zeros(len(lengths), np.int32)
        self.steps, self.preempted, self.admitted, self.sizes = 0, [], [], []

    def step(self, put_back: int = 0) -> None:
        decision = self.ours.begin_step()
        self.steps += 1
        self.preempted += decision.preempted
        self.admitted += decision.admitted
        self.sizes.append(decision.tokens)
        assert not set(decision.preempted) & set(self.ours.running()) - set(decision.admitted)
        sampled = self.ours.build()
        self.generated[sampled] += 1
        ended = [(i, True) for i in sampled if self.generated[i] >= self.lengths[i]]
        self.ours.count({i: int(self.generated[i]) for i in sampled}, ended)
        for request in self.ours.running()[-put_back:] if put_back else ():
            self.ours.put_back(request)


@pytest.mark.parametrize("policy", ["blend", "dfs", "fcfs"])
@pytest.mark.parametrize("pacing", [True, False])
def test_it_takes_the_steps_of_our_own_engine(policy: str, pacing: bool) -> None:
    job, lengths = a_job(policy)
    settings = sizes(pacing=pacing)
    engine = Engine(scheduler(job, settings), lengths)
    while engine.ours.unfinished:
        engine.step()
    expected = simulate(job.plan, job.tokens, job.offsets, lengths, settings, COST)
    assert (engine.steps, len(engine.preempted)) == (expected.steps, expected.preemptions)
    assert max(engine.sizes) <= settings.token_budget
    # Each joins once, and once more for each time that it went back.
    assert sorted(engine.admitted) == sorted([*range(len(lengths)), *engine.preempted])
    assert expected.preemptions > 0


def test_what_the_engine_puts_back_is_let_in_again() -> None:
    job, lengths = a_job("blend")
    engine = Engine(scheduler(job, sizes()), lengths)
    steps = 0
    while engine.ours.unfinished:
        engine.step(put_back=2 if steps % 7 == 3 else 0)
        steps += 1
        assert steps < 5000
    assert (engine.generated >= lengths).all()
    assert set(engine.admitted) == set(range(len(lengths)))
    engine.ours.put_back(3)
    assert engine.ours.unfinished == 0


def test_answers_that_come_late_hold_nobody_up() -> None:
    """An engine may lag behind what we think it has computed: steps in flight, or its own order."""
    job, lengths = a_job("blend", 30)
    ours = scheduler(job, sizes())
    computed: list[list[int]] = [[], [], []]
    generated = np.zeros(len(lengths), np.int32)
    steps = 0
    while ours.unfinished:
        ours.begin_step()
        computed.append(ours.build())
        arrived = [i for i in computed.pop(0) if i in ours.running()]
        generated[arrived] += 1
        # One that was decoding two steps ago may be in two results.
        ended = [(i, True) for i in dict.fromkeys(arrived) if generated[i] >= lengths[i]]
        ours.count({i: int(generated[i]) for i in arrived}, ended)
        steps += 1
        assert steps < 5000


def test_the_order_of_admission_has_everybody_once_and_is_no_order_of_the_plan() -> None:
    job, lengths = a_job("blend")
    found = admission_order(scheduler(job, sizes()), lengths)
    assert sorted(found) == list(range(len(lengths)))
    assert found != job.plan.order.tolist()
    one_sided, lengths = a_job("fcfs")
    assert admission_order(scheduler(one_sided, sizes()), lengths) == list(range(len(lengths)))


def test_a_memory_that_holds_nobody_is_told() -> None:
    job, _ = a_job("blend", 4)
    with pytest.raises(CapacityError, match="no request can go on"):
        scheduler(job, sizes(kv_tokens=8)).begin_step()


def test_a_fixed_order_is_fed_with_a_bounded_window() -> None:
    window = Window(range(500), 12)
    first = window.new()
    assert first == list(range(12 + AHEAD))
    assert window.new() == []
    window.ended([3, 0])
    assert window.new() == [76, 77]
    assert window.running().tolist() == [1, 2, *range(4, 14)]
