"""The engine gives back what it has not begun: the others are answered as if nothing had been asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.cost.step import NOMINAL, ModelShape
from engine.plan.moves import Giver
from engine.plan.policies import make_plan
from engine.runtime import state
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.sample.settings import Sampling
from tests.support.engines import assert_idle, run_engine, some_prompts
from tests.support.models import decoder_of, flatten, reference_model

CHOICES = 2
PROMPTS = [prompt for prompt in some_prompts(2, 20) for _ in range(CHOICES)]
OWNER = [f"r{i // CHOICES}" for i in range(len(PROMPTS))]
SAMPLING = [
    Sampling(max_tokens=4 + i % 9, temperature=0.7 * (i % 3 > 0), seed=i) for i in range(len(PROMPTS))
]


@pytest.fixture(scope="module")
def decoder():
    return decoder_of(reference_model("llama"))


@pytest.fixture(scope="module")
def expected(decoder):
    _, done = run_engine(decoder, PROMPTS, SAMPLING)
    return {i: (found.token_ids.tolist(), found.finish_reason) for i, found in done.items()}


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.sets(st.integers(0, 30), min_size=1, max_size=4),
    lag=st.integers(0, 1),
    policy=st.sampled_from(["blend", "dfs", "interleave"]),
    # In the smaller memory requests are preempted.
    kv_tokens=st.sampled_from([112, 2048]),
)
def test_what_it_gives_is_never_answered_and_all_else_is(decoder, expected, asked, lag, policy, kv_tokens):
    tokens, start = flatten(PROMPTS)
    shape, device = ModelShape.of(decoder.config), NOMINAL["cpu"]
    plan = make_plan(policy, tokens, start, np.full(len(PROMPTS), 8.0), shape, device, seed=5)
    made = EngineSettings(kv_tokens=kv_tokens, page_size=8, token_budget=32, max_sequences=3, verify=True)
    runner = CpuRunner(decoder, kv_tokens, 8, lag=lag)
    engine = Engine(runner, None, made, tokens, start, SAMPLING, plan)
    giver = Giver(OWNER, tokens, start, None, shape, device)
    done, given_back, begun, step = {}, [], set(), 0
    while engine.unfinished:
        if step in asked:
            before = engine.unfinished
            part = engine.give_back(giver).tolist()
            assert not begun & {*part}
            assert engine.unfinished == before - len(part)
            given_back += part
        finished, _ = engine.step()
        begun |= {*engine.slots.request[engine.slots.running[: engine.slots.counts[state.RUNNING]]].tolist()}
        begun |= {found.request for found in finished}
        done |= {found.request: (found.token_ids.tolist(), found.finish_reason) for found in finished}
        step += 1
    assert_idle(engine)
    assert sorted((*done, *given_back)) == list(range(len(PROMPTS)))
    # All choices of a request, or none.
    assert not {OWNER[i] for i in given_back} & {OWNER[i] for i in done}
    assert done == {i: expected[i] for i in done}
    if 0 in asked:
        assert 0 < len(given_back) < len(PROMPTS)
