"""The engine plans again while it answers: it changes when a request is answered, never how."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cost.step import NOMINAL, ModelShape
from engine.job.format import JobSettings, read_job, write_job
from engine.plan.features import Features
from engine.plan.length_model import LengthModel
from engine.plan.policies import plan_tree
from engine.plan.replan import Replanning
from engine.plan.sampled import choose_sample
from engine.plan.tree import build_tree
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule.revision import Reviser
from tests.support.models import decoder_of, flatten, reference_model


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("policy", ["blend", "dfs"])
def test_answers_are_the_same_and_the_order_is_not(policy: str, lag: int, tmp_path) -> None:
    rng = np.random.default_rng(1)
    group = np.arange(60) % 4 // 3
    prompts = [[50 + g] * 17 + rng.integers(4, 90, int(rng.integers(3, 40))).tolist() for g in group.tolist()]
    # What no estimate knows: the second workload has long answers.
    sampling = [
        Sampling(max_tokens=80 if g else 3 + i % 4, temperature=0.7 * (i % 2), seed=i, ignore_eos=True)
        for i, g in enumerate(group.tolist())
    ]
    decoder = decoder_of(reference_model("llama"))
    tokens, start = flatten(prompts)
    shape, device = ModelShape.of(decoder.config), NOMINAL["cpu"]
    tree, limit = build_tree(tokens, start), np.full(60, 200, np.int64)
    model = LengthModel.of(Features.of(tokens, start, group), limit)
    found = Replanning(policy, 0, tree, limit, None, None, model, choose_sample(tree, 0.05))
    nothing = (np.zeros(60, np.int32), np.zeros(60, np.int8))
    plan = plan_tree(policy, tree, found.estimate(*nothing), shape, device, first=found.sample)
    answers, order = [], []
    settings = EngineSettings(kv_tokens=2048, page_size=8, token_budget=64, max_sequences=8, verify=True)
    write_job(
        tmp_path,
        JobSettings("/m"),
        tokens,
        start,
        [(str(i), 0, s) for i, s in enumerate(sampling)],
        plan,
        found,
    )
    job = read_job(tmp_path)
    for replanning in (None, job.replanning):
        reviser = None if replanning is None else Reviser(replanning, plan, shape, device)
        runner = CpuRunner(decoder, 2048, 8, lag=lag)
        engine = Engine(runner, None, settings, tokens, start, sampling, plan, reviser=reviser)
        done = [c for finished, _ in engine.run() for c in finished]
        assert sorted(c.request for c in done) == list(range(60))
        answers.append({c.request: c.token_ids.tolist() for c in done})
        order.append([c.request for c in done])
    assert engine.counters()["replans"] > 0
    assert answers[0] == answers[1]
    # Depth-first goes by prefixes only.
    assert (order[0] != order[1]) == (policy == "blend")
