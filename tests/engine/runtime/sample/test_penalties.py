"""Settings that change logits: equal to transformers' processors, and the same under lag and preemption."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from engine.kernels.next_token import gumbel_noise
from engine.runtime.sample.penalties import Penalties, Prompts, is_touched
from engine.runtime.sample.sampler import Sampler
from engine.runtime.sample.settings import Sampling
from tests.support.device_runners import Poisoned
from tests.support.engines import answers, run_engine, some_prompts
from tests.support.models import decoder_of, flatten, reference_model

MODEL = reference_model("llama")
DECODER = decoder_of(MODEL)
BIAS = ((5, 4.0), (11, -30.0), (40, 2.5), (3, 1.0))


class CountPenalty:
    """OpenAI's penalties as its documentation writes them, token by token."""

    def __init__(self, prompt_length: int, frequency: float, presence: float) -> None:
        self.prompt_length, self.frequency, self.presence = prompt_length, frequency, presence

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        sampled = ids[0, self.prompt_length :].tolist()
        for token in set(sampled):
            scores[0, token] -= sampled.count(token) * self.frequency + self.presence
        return scores


def processors(prompt: list[int], settings: Sampling) -> LogitsProcessorList:
    """Return what transformers has for the settings, in the order of vLLM."""
    found: list[Any] = []
    if settings.logit_bias:
        found.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in settings.logit_bias]))
    if settings.min_tokens:
        found.append(
            MinNewTokensLengthLogitsProcessor(len(prompt), settings.min_tokens, [3, *settings.stop_token_ids])
        )
    if settings.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.frequency_penalty or settings.presence_penalty:
        found.append(CountPenalty(len(prompt), settings.frequency_penalty, settings.presence_penalty))
    return LogitsProcessorList(found)


def generated(prompt: list[int], settings: Sampling) -> list[int]:
    """Return the greedy answer of transformers' model with transformers' processors."""
    ids = torch.tensor([prompt])
    process = processors(prompt, settings)
    stops = {3, *settings.stop_token_ids}
    with torch.inference_mode():
        for _ in range(settings.max_tokens):
            scores = process(ids, MODEL(ids).logits[:, -1].float())
            ids = torch.cat((ids, scores.argmax(-1, keepdim=True)), 1)
            if int(ids[0, -1]) in stops:
                break
    return ids[0, len(prompt) :].tolist()


FIELDS = [
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.8},
    {"frequency_penalty": -0.7},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8},
    {"logit_bias": BIAS},
    {"min_tokens": 9, "stop_token_ids": tuple(range(4, 30))},
    {
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.2,
        "logit_bias": BIAS,
        "min_tokens": 12,
    },
]


@pytest.mark.parametrize("fields", FIELDS, ids="-".join)
def test_greedy_answers_are_those_of_transformers(fields: dict[str, Any]) -> None:
    prompts = some_prompts(3, 8)
    # Every other request has none of them: rows are told apart.
    sampling = [Sampling(24, **(fields if i % 2 == 0 else {})) for i in range(len(prompts))]
    _, done = run_engine(DECODER, prompts, sampling)
    expected = [generated(prompt, settings) for prompt, settings in zip(prompts, sampling, strict=True)]
    assert [one[0] for one in answers(done)] == expected
    plain = [generated(prompt, Sampling(24)) for prompt in prompts[::2]]
    assert expected[::2] != plain


def mixed(count: int) -> list[Sampling]:
    return [
        Sampling(
            30,
            temperature=0.0 if i % 3 else 1.1,
            seed=i,
            top_k=0 if i % 2 else 40,
            min_p=0.05 if i % 6 == 3 else 0.0,
            ignore_eos=True,
            logprobs=1 if i % 4 == 0 else None,
            **FIELDS[i % len(FIELDS)] if i % 5 else {},
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("lag", [0, 1])
def test_preemptions_and_a_step_in_flight_change_nothing(lag: int) -> None:
    prompts, sampling = some_prompts(4, 24), mixed(24)
    _, calm = run_engine(DECODER, prompts, sampling)
    engine, done = run_engine(DECODER, prompts, sampling, "blend", lag=lag, kv_tokens=160, max_sequences=12)
    assert engine.counters()["preemptions"] > 0
    for got, wanted in zip(answers(done), answers(calm), strict=True):
        assert got[:3] == wanted[:3]
        # What the model says by itself, whatever is made of it.
        assert got[3] == pytest.approx(wanted[3], abs=1e-4)


def test_the_runner_of_a_device_chooses_the_same() -> None:
    prompts, sampling = some_prompts(4, 24), mixed(24)
    _, expected = run_engine(DECODER, prompts, sampling)

    def runner(decoder: Any, kv_tokens: int, page_size: int, lag: int) -> Poisoned:
        made = Poisoned(decoder, kv_tokens, page_size, 64, 8, 120, lag=lag)
        # What memory such steps take is tried out with them.
        made.warm_sampling()
        return made

    engine, done = run_engine(DECODER, prompts, sampling, "blend", lag=1, kv_tokens=200, runner=runner)
    assert engine.counters()["preemptions"] > 0
    assert [one[:3] for one in answers(done)] == [one[:3] for one in answers(expected)]


def test_min_p_is_that_of_transformers_before_the_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((40, 97), generator=generator) * 3
    settings = [Sampling(1, temperature=0.5 + i / 20, seed=i, min_p=0.02 * (i % 8)) for i in range(40)]
    prompts = Prompts(np.zeros(0, np.int32), np.zeros(41, np.int64))
    sampler = Sampler(settings, prompts=prompts, vocab_size=97)
    requests, positions = np.arange(40), np.zeros(40, np.int64)
    rows, restricted = sampler.drawn(requests)
    touched = sampler.touched(requests, positions, np.zeros(40, np.int32), np.zeros((1, 1), np.int32))
    found = sampler(
        logits.clone(),
        torch.from_numpy(requests),
        torch.from_numpy(positions),
        torch.from_numpy(rows),
        restricted=restricted,
        touched=touched,
        last=torch.zeros(1, dtype=torch.int64),
    )
    assert touched is not None
    assert touched.rows.tolist() == [i for i in range(40) if i % 8]
    removed = 0
    for i, one in enumerate(settings):
        scaled = logits[i : i + 1] / one.temperature
        if one.min_p:
            scaled = MinPLogitsWarper(one.min_p)(None, scaled)
            removed += int(scaled.isinf().sum())
        noise = gumbel_noise(torch.tensor([one.seed]), torch.tensor([0]), 97)
        assert int(found[i]) == int((scaled + noise).argmax())
    assert removed > 1000


def test_what_only_the_device_knows_counts() -> None:
    """The last token of an answer is a placeholder on the host while its step is in flight."""
    settings = [Sampling(9, presence_penalty=2.0), Sampling(9, repetition_penalty=2.0)]
    tokens, start = flatten([[7, 8], [7, 9]])
    penalties = Penalties(settings, Prompts(tokens, start), (3,), 12)
    output = np.array([[4, -1, 77], [-1, 0, 0]], np.int32)
    step = penalties.touched(np.array([0, 1]), np.array([4, 3]), np.array([0, 1], np.int32), output)
    assert step is not None
    logits = torch.ones((2, 12)) * torch.tensor([[1.0], [-1.0]])
    changed = penalties(logits, step, torch.tensor([5, 6]))
    assert torch.nonzero(changed[0] == -1.0).flatten().tolist() == [4, 5]
    assert torch.nonzero(changed[1] == -2.0).flatten().tolist() == [6, 7, 9]


def test_requests_without_such_settings_are_left_alone() -> None:
    assert not is_touched(Sampling(5, temperature=1.0, top_k=3, stop=("x",), include_stop_str_in_output=True))
    assert Penalties([Sampling(5)], None, (), 0).touched(*[np.zeros(1, np.int64)] * 3, np.zeros(1)) is None
    with pytest.raises(ValueError, match="prompts"):
        Penalties([Sampling(5, min_p=0.1)], None, (), 0)
