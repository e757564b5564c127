"""The runner of a GPU on the CPU: padding, buckets, block tables and tokens that stay on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.kernels.decode_attention import decode_attention_reference
from engine.kernels.prefill_attention import prefill_attention_reference
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule.buckets import Buckets, sequence_sizes, token_sizes
from tests.support.device_runners import RAN, Poisoned, mixed_sampling
from tests.support.engines import answers, assert_idle, run_engine, some_prompts
from tests.support.models import CONFIGS, decoder_of, greedy, reference_model


def runner_of(budget: int, sequences: int, longest: int = 512):
    def make(decoder, kv_tokens, page_size, lag):
        return Poisoned(decoder, kv_tokens, page_size, budget, sequences, longest, lag=lag)

    return make


def run_device(decoder, prompts, sampling, *more, lag=1, token_budget=64, max_sequences=8, **settings):
    sizes = {"token_budget": token_budget, "max_sequences": max_sequences}
    make = runner_of(token_budget, max_sequences)
    return run_engine(decoder, prompts, sampling, *more, lag=lag, runner=make, **sizes, **settings)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_equals_transformers(name: str, lag: int) -> None:
    model, prompts = reference_model(name), some_prompts()
    sampling = [Sampling(max_tokens=10, ignore_eos=i % 3 == 0) for i in range(len(prompts))]
    engine, done = run_device(decoder_of(model), prompts, sampling, "blend", lag=lag)
    for i, prompt in enumerate(prompts):
        assert done[i].token_ids.tolist() == greedy(model, prompt, 10, stop=i % 3 != 0)
    assert_idle(engine)


@given(
    seed=st.integers(0, 100),
    kv_tokens=st.sampled_from([88, 120, 400]),
    budget=st.integers(2, 40),
    page_size=st.sampled_from([1, 4, 8]),
    drawn=st.booleans(),
)
@hypothesis_settings(max_examples=20, deadline=None)
def test_answers_are_those_of_the_cpu_runner(seed, kv_tokens, budget, page_size, drawn) -> None:
    """Also in little memory, with drawn tokens and with log probabilities; a step behind and padded."""
    prompts, sampling = some_prompts(seed, 10), mixed_sampling(seed, drawn=drawn)
    sizes = {"kv_tokens": kv_tokens // page_size * page_size, "page_size": page_size, "token_budget": budget}
    more = {**sizes, "max_sequences": min(budget, 6)}
    _, expected = run_engine(DECODER, prompts, sampling, "blend", runner=CpuRunner, **more)
    engine, found = run_device(DECODER, prompts, sampling, "blend", **more)
    assert [a[:3] for a in answers(found)] == [a[:3] for a in answers(expected)]
    for i in range(0, 10, 4):
        assert np.allclose(found[i].logprobs.chosen, expected[i].logprobs.chosen, atol=1e-3)
        assert np.allclose(found[i].logprobs.top, expected[i].logprobs.top, atol=1e-3)
    assert_idle(engine)


DECODER = decoder_of(reference_model("qwen2-window"))


def test_steps_of_several_buckets_were_run() -> None:
    prompts = [p * 3 for p in some_prompts(9, 20)]
    sampling = [Sampling(max_tokens=20, ignore_eos=True) for _ in prompts]
    RAN.clear()
    run_device(DECODER, prompts, sampling, token_budget=200, max_sequences=20)
    assert {bucket.prefill for bucket in RAN} == {True, False}
    assert len(RAN) >= 4
    assert len({bucket.tokens for bucket in RAN}) >= 3


def test_a_runner_for_shorter_sequences_is_refused() -> None:
    with pytest.raises(Exception, match="shorter or fewer sequences"):
        run_engine(DECODER, [[5] * 90], [Sampling(max_tokens=4)], runner=runner_of(64, 8, 40))


@given(tokens=st.integers(1, 9000), sequences=st.integers(1, 600), budget=st.integers(1, 9000))
def test_a_bucket_holds_its_step_and_little_more(tokens: int, sequences: int, budget: int) -> None:
    most = max(sequences, 300)
    budget = max(budget, most, tokens)
    tokens = max(tokens, sequences)
    buckets = Buckets(budget, most)
    bucket = buckets.of(tokens, sequences)
    assert bucket in buckets.all()
    assert bucket.tokens >= max(tokens, bucket.sequences)
    assert bucket.sequences >= sequences
    assert bucket.prefill == (tokens > sequences)
    assert not bucket.prefill or bucket.tokens - max(tokens, bucket.sequences) < 512
    if 64 < tokens <= 4096 and bucket.sequences <= tokens:
        assert bucket.tokens - tokens < (64 if tokens <= 1024 else 128)
    with pytest.raises(ValueError, match="exceeds the largest size"):
        buckets.of(budget + 1, sequences)


def test_sizes() -> None:
    assert token_sizes(5) == [5]
    assert token_sizes(300) == [8, 16, 32, 64, 128, 192, 256, 300]
    assert token_sizes(1300) == [8, 16, 32, *range(64, 1024, 64), 1024, 1152, 1280, 1300]
    assert token_sizes(6000)[-5:] == [4096, 4608, 5120, 5632, 6000]
    assert sequence_sizes(1000) == [8, 32, 128, 512, 1000]
    order = Buckets(2048, 256).all()
    assert order == sorted(order, reverse=True)
    assert len(order) == len(set(order)) < 110


@pytest.mark.parametrize("window", [None, 5])
def test_reference_attention_leaves_other_rows_alone(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(6, 2, 2, 4, 8, generator=generator)
    q = torch.randn(7, 4, 8, generator=generator)
    table = torch.tensor([[3, 1, 5], [2, 0, 4], [5, 5, 5]], dtype=torch.int32)
    start, context = (
        torch.tensor([1, 4, 4, 5], dtype=torch.int32),
        torch.tensor([9, 3, 12], dtype=torch.int32),
    )
    out = torch.full_like(q, 7.0)
    prefill_attention_reference(q, cache, table, start, context, scale=0.3, window=window, out=out)
    assert (out[[0, 5, 6]] == 7.0).all()
    for row, sequence, seen in [(1, 0, 7), (2, 0, 8), (3, 0, 9), (4, 2, 12)]:
        # The same one by one: a row is the decode of a sequence that ends with it.
        alone = decode_attention_reference(
            q[row : row + 1],
            cache,
            table[sequence : sequence + 1],
            torch.tensor([seen], dtype=torch.int32),
            scale=0.3,
            window=window,
        )
        assert torch.allclose(out[row], alone[0], atol=1e-6)
        k, v = (cache[table[sequence].long(), i].permute(1, 0, 2, 3).reshape(2, -1, 8) for i in (0, 1))
        first = 0 if window is None else max(0, seen - window)
        for head in range(4):
            weights = (0.3 * k[head // 2, first:seen] @ q[row, head]).softmax(0)
            assert torch.allclose(out[row, head], weights @ v[head // 2, first:seen], atol=1e-5)
