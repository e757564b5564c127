"""Embeddings of the engine against the hidden states of transformers, whatever happens to a prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.runtime import state
from engine.runtime.sample.pooling import States, embedding
from engine.runtime.sample.settings import Sampling
from tests.support.embedding_models import expected
from tests.support.engines import assert_idle, run_engine, some_prompts
from tests.support.models import decoder_of, reference_model

WANTED = [
    ("last", True, None),
    ("mean", True, None),
    ("last", False, None),
    ("mean", False, 7),
    ("last", True, 20),
]
PROMPTS = some_prompts(count=20)


def asked(count: int) -> list[Sampling]:
    """Embeddings of every kind, and an answer in every fourth place."""
    found = []
    for i in range(count):
        pooling, normalised, dimensions = WANTED[i % len(WANTED)]
        one = Sampling(1, ignore_eos=True, pooling=pooling, normalised=normalised, dimensions=dimensions)
        found.append(Sampling(30, ignore_eos=True, logprobs=1) if i % 4 == 3 else one)
    return found


def check(model: torch.nn.Module, prompts: list[list[int]], sampling: list[Sampling], done) -> None:
    for i, settings in enumerate(sampling):
        answer = done[i]
        if settings.pooling is None:
            assert answer.embedding is None
            assert len(answer.token_ids) == len(answer.logprobs.chosen) == settings.max_tokens
            continue
        wanted = expected(
            model, prompts[i], settings.pooling, settings.dimensions, normalised=settings.normalised
        )
        assert answer.embedding.dtype == np.float32
        assert (len(answer.token_ids), answer.text, answer.finish_reason) == (0, "", "stop")
        lengths = np.linalg.norm(answer.embedding), np.linalg.norm(wanted)
        assert answer.embedding @ wanted / np.prod(lengths) == pytest.approx(1, abs=1e-5)
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral-window"])
@pytest.mark.parametrize(("policy", "lag"), [("blend", 0), ("dfs", 1), ("fcfs", 0)])
def test_embeddings_beside_answers_are_those_of_transformers(name: str, policy: str, lag: int) -> None:
    """In steps of a few tokens, with shared prefixes, in memory that holds few prompts."""
    model = reference_model(name)
    sampling = asked(len(PROMPTS))
    engine, done = run_engine(
        decoder_of(model), PROMPTS, sampling, policy, lag=lag, token_budget=11, kv_tokens=120
    )
    check(model, PROMPTS, sampling, done)
    counters = engine.counters()
    assert counters["hit_tokens"] > 0
    assert counters["evicted_pages"] > 0
    longest = max(len(prompt) for prompt, s in zip(PROMPTS, sampling, strict=True) if s.pooling == "mean")
    assert longest > 11
    assert_idle(engine)
    # The neighbours of embeddings are answered as without them.
    answers = [i for i, s in enumerate(sampling) if s.pooling is None]
    _, alone = run_engine(decoder_of(model), [PROMPTS[i] for i in answers], [sampling[i] for i in answers])
    assert [done[i].token_ids.tolist() for i in answers] == [
        alone[j].token_ids.tolist() for j in range(len(answers))
    ]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_prompt_that_is_put_back_is_embedded_all_the_same(lag: int) -> None:
    """Long answers, which nobody expects, take the memory while long prompts are computed."""
    model = reference_model("qwen3")
    rng = np.random.default_rng(0)
    embedded = np.arange(20) % 5 == 4
    prompts = [rng.integers(4, 97, int(rng.integers(60, 110)) if long else 6).tolist() for long in embedded]
    sampling = [
        Sampling(1, ignore_eos=True, pooling="mean") if long else Sampling(60, ignore_eos=True, logprobs=0)
        for long in embedded
    ]
    engine, done = run_engine(
        decoder_of(model),
        prompts,
        sampling,
        "fcfs",
        estimate=np.full(20, 1.0),
        lag=lag,
        token_budget=8,
        kv_tokens=240,
    )
    check(model, prompts, sampling, done)
    assert engine.counters()["preemptions"] > 0
    if lag == 0:
        assert (engine.requests.stored[embedded] > 0).any(), "no prompt was put back while it was computed"
    assert int(engine.slots.counts[state.FINISHED]) == 20


def test_a_prompt_may_fill_the_context() -> None:
    model = reference_model("llama")
    longest = model.config.max_position_embeddings
    prompts = [np.random.default_rng(1).integers(4, 97, longest).tolist()]
    sampling = [Sampling(1, ignore_eos=True, pooling="mean")]
    _, done = run_engine(decoder_of(model), prompts, sampling)
    check(model, prompts, sampling, done)


def test_what_is_cut_has_length_1_again() -> None:
    state_of = torch.tensor([3.0, 4.0, 12.0])
    assert embedding(state_of, Sampling(1, pooling="last")).tolist() == pytest.approx(
        [3 / 13, 4 / 13, 12 / 13]
    )
    cut = embedding(state_of, Sampling(1, pooling="last", dimensions=2))
    assert cut.tolist() == pytest.approx([0.6, 0.8])
    plain = embedding(state_of, Sampling(1, pooling="last", normalised=False, dimensions=2))
    assert plain.tolist() == [3.0, 4.0]


def test_states_lie_and_are_copied_as_their_kv() -> None:
    states = States(pages=4, page_size=2, hidden=3)
    rows = torch.arange(15, dtype=torch.float32).view(5, 3)
    states.store(torch.tensor([2, 2, 0, 0, 3]), torch.tensor([0, 1, 0, 1, 0]), rows)
    table = np.array([2, 0, 3, 1], np.int32)
    assert states.mean(table, 5).tolist() == rows.mean(0).tolist()
    assert states.mean(table, 3).tolist() == rows[:3].mean(0).tolist()
    states.copy(source=0, target=1, tokens=1)
    assert states.mean(np.array([1], np.int32), 1).tolist() == rows[2].tolist()
