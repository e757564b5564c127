"""Runs the engine on a tiny model, and looks at what a run leaves behind."""

from __future__ import annotations

import numpy as np

from engine.cost.step import NOMINAL, ModelShape
from engine.plan.policies import make_plan
from engine.runtime import state
from engine.runtime.core import Completion, Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.kv.pages import CACHED
from tests.support.models import flatten


def some_prompts(seed: int = 1, count: int = 14) -> list[list[int]]:
    """Prompts with nested shared prefixes, twins, one inside another, and lengths around the page size."""
    rng = np.random.default_rng(seed)
    base = rng.integers(4, 97, 60).tolist()
    prompts = [base[:n] for n in (1, 7, 8, 9, 16, 33)] + [base[:33], base[:16]]
    while len(prompts) < count:
        shared = base[: int(rng.integers(0, 40))]
        prompts.append(shared + rng.integers(4, 97, int(rng.integers(1, 30))).tolist())
    return [prompts[i] for i in rng.permutation(len(prompts))]


def run_engine(
    decoder,
    prompts,
    sampling,
    policy="dfs",
    estimate=None,
    lag=0,
    tokenizer=None,
    runner=CpuRunner,
    **settings,
):
    tokens, start = flatten(prompts)
    shape = ModelShape.of(decoder.config)
    estimate = np.full(len(prompts), 10.0) if estimate is None else estimate
    plan = make_plan(policy, tokens, start, estimate, shape, NOMINAL["cpu"], seed=5)
    defaults = {"kv_tokens": 4096, "page_size": 8, "token_budget": 64, "max_sequences": 8, "verify": True}
    settings = EngineSettings(**{**defaults, **settings})
    made = runner(decoder, settings.kv_tokens, settings.page_size, lag=lag)
    engine = Engine(made, tokenizer, settings, tokens, start, sampling, plan)
    done: dict[int, Completion] = {}
    for finished, _ in engine.run():
        for completion in finished:
            assert completion.request not in done
            done[completion.request] = completion
    assert sorted(done) == list(range(len(prompts)))
    return engine, done


def assert_idle(engine: Engine) -> None:
    pool = engine.pool
    assert engine.slots.counts[state.RUNNING] == 0
    assert (pool.ref == 0).all()
    assert set(np.flatnonzero(pool.state[:-1])) == set(np.flatnonzero(pool.state[:-1] == CACHED))
    assert (pool.owner == -1).all()


def answers(done) -> list[tuple]:
    return [
        (
            c.token_ids.tolist(),
            c.text,
            c.finish_reason,
            None if c.logprobs is None else c.logprobs.chosen.tolist(),
        )
        for _, c in sorted(done.items())
    ]
