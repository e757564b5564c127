"""The engine against transformers: same tokens, whatever the order, the memory and the step size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.cost.step import NOMINAL, ModelShape
from engine.errors import CapacityError
from engine.plan.policies import POLICIES, make_plan
from engine.runtime.sample.answer_text import AnswerText
from engine.runtime.sample.settings import Sampling
from tests.support.engines import assert_idle, run_engine, some_prompts
from tests.support.models import CONFIGS, decoder_of, flatten, greedy, reference_model
from tests.support.tokenizers import byte_level


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request):
    return reference_model(request.param)


@pytest.fixture(scope="module")
def expected_answers(model):
    return [greedy(model, prompt, 12, stop=i % 3 != 0) for i, prompt in enumerate(some_prompts())]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_greedy_equals_transformers(model, expected_answers, policy):
    prompts = some_prompts()
    sampling = [Sampling(max_tokens=12, ignore_eos=i % 3 == 0) for i in range(len(prompts))]
    _, done = run_engine(decoder_of(model), prompts, sampling, policy)
    for i, expected in enumerate(expected_answers):
        assert done[i].token_ids.tolist() == expected
        assert done[i].finish_reason == ("stop" if i % 3 and expected[-1] == 3 else "length")


@pytest.mark.parametrize(
    ("kv_tokens", "budget", "sequences"), [(96, 4, 4), (104, 16, 16), (160, 5, 3), (400, 64, 16)]
)
def test_little_memory_and_small_steps_change_nothing(kv_tokens, budget, sequences):
    model = reference_model("llama")
    prompts = some_prompts(3, 24)
    sampling = [Sampling(max_tokens=20) for _ in prompts]
    engine, done = run_engine(
        decoder_of(model),
        prompts,
        sampling,
        "blend",
        kv_tokens=kv_tokens,
        token_budget=budget,
        max_sequences=sequences,
    )
    assert [done[i].token_ids.tolist() for i in range(len(prompts))] == [
        greedy(model, p, 20) for p in prompts
    ]
    assert_idle(engine)


def test_underestimated_lengths_force_preemptions_and_answers_stay():
    model = reference_model("llama")
    prompts = some_prompts(4, 24)
    sampling = [Sampling(max_tokens=40, ignore_eos=True) for _ in prompts]
    engine, done = run_engine(
        decoder_of(model),
        prompts,
        sampling,
        "blend",
        estimate=np.full(24, 10.0),
        kv_tokens=160,
        max_sequences=12,
    )
    counters = engine.counters()
    assert counters["preemptions"] > 0
    assert counters["recomputed_tokens"] > 0
    assert [done[i].token_ids.tolist() for i in range(24)] == [
        greedy(model, p, 40, stop=False) for p in prompts
    ]
    assert_idle(engine)


@pytest.mark.parametrize("name", ["mistral-window", "qwen2-window", "qwen3-layer-types"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_windows_shorter_than_the_context(name, page_size):
    """Prompts up to 20 windows long in chunks of at most 24 tokens, prefix hits, preemptions."""
    model = reference_model(name, 1)
    rng = np.random.default_rng(2)
    base = rng.integers(4, 97, 180).tolist()
    prompts = [base[: int(n)] + rng.integers(4, 97, 5).tolist() for n in rng.integers(1, 180, 10)]
    sampling = [Sampling(max_tokens=30, ignore_eos=True) for _ in prompts]
    engine, done = run_engine(
        decoder_of(model), prompts, sampling, page_size=page_size, kv_tokens=512, token_budget=24
    )
    assert engine.counters()["hit_tokens"] > 100
    for i, prompt in enumerate(prompts):
        assert done[i].token_ids.tolist() == greedy(model, prompt, 30, stop=False)


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_hit_rate_reaches_the_optimum_exactly(page_size):
    prompts = some_prompts(7, 30)
    sampling = [Sampling(max_tokens=2, ignore_eos=True) for _ in prompts]
    engine, done = run_engine(
        decoder_of(reference_model("llama")),
        prompts,
        sampling,
        page_size=page_size,
        max_sequences=30,
        token_budget=30,
    )
    tokens, start = flatten(prompts)
    shape = ModelShape.of(decoder_of(reference_model("llama")).config)
    plan = make_plan("dfs", tokens, start, np.ones(30), shape, NOMINAL["cpu"])
    assert sum(c.cached_tokens for c in done.values()) == pytest.approx(plan.hit_rate_optimum * len(tokens))
    assert engine.counters()["prefill_tokens"] == len(tokens) - engine.counters()["hit_tokens"]


def test_sampling_does_not_depend_on_the_batch():
    decoder = decoder_of(reference_model("llama"))
    prompts = some_prompts(5, 12)
    sampling = [
        Sampling(max_tokens=8, temperature=1.0, top_k=20, top_p=0.9, seed=2**63 + i) for i in range(12)
    ]
    _, together = run_engine(decoder, prompts, sampling, "random")
    for i in range(12):
        _, alone = run_engine(decoder, [prompts[i]], [sampling[i]])
        assert alone[0].token_ids.tolist() == together[i].token_ids.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama3-rope", "qwen3", "qwen2-window"])
def test_half_precision_stays_close_to_float32(name, dtype, monkeypatch):
    """Log probabilities of the tokens that the half precision run chose, against those in float32."""
    model = reference_model(name)
    prompts = some_prompts(6, 9)
    sampling = [Sampling(max_tokens=10, ignore_eos=True, logprobs=0) for _ in prompts]
    # Products by oneDNN may use AMX tiles, which not every sandbox allows.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    _, done = run_engine(decoder_of(model, dtype), prompts, sampling)
    errors = []
    for i, prompt in enumerate(prompts):
        answer = done[i].token_ids.tolist()
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        reference = logits.log_softmax(-1)[torch.arange(len(answer)), answer].numpy()
        errors.append(np.abs(done[i].logprobs.chosen - reference))
    largest, mean = np.concatenate(errors).max(), np.concatenate(errors).mean()
    # bfloat16 has 8 bits of mantissa, float16 has 11.
    scale = 8 if dtype == torch.bfloat16 else 1
    assert 1e-5 < mean < 0.01 * scale
    assert largest < 0.1 * scale


def test_stop_token_ids_end_an_answer():
    decoder = decoder_of(reference_model("llama"))
    prompt = some_prompts()[3]
    _, free = run_engine(decoder, [prompt], [Sampling(max_tokens=10, ignore_eos=True)])
    third = int(free[0].token_ids[2])
    _, stopped = run_engine(
        decoder, [prompt], [Sampling(max_tokens=10, ignore_eos=True, stop_token_ids=(third,))]
    )
    expected = free[0].token_ids.tolist()
    assert stopped[0].token_ids.tolist() == expected[: expected.index(third) + 1]
    assert stopped[0].finish_reason == "stop"


@pytest.mark.parametrize("lag", [0, 1])
def test_stop_strings_end_each_answer_at_its_own(lag):
    """Among requests with other stops and with none, some of which end in the same step."""
    decoder, tokenizer = decoder_of(reference_model("llama")), byte_level()
    prompts, text = some_prompts(3, 24), AnswerText(tokenizer)
    plain = Sampling(max_tokens=20, ignore_eos=True)
    _, free = run_engine(decoder, prompts, [plain] * len(prompts), tokenizer=tokenizer)
    answers = [free[i].token_ids.tolist() for i in range(len(prompts))]
    stops = [(text(ids[i % 12 : i % 12 + 2]) or "none",) if i % 4 else () for i, ids in enumerate(answers)]
    sampling = [replace(plain, stop=stop) for stop in stops]
    _, done = run_engine(decoder, prompts, sampling, tokenizer=tokenizer, lag=lag)
    ended = 0
    for i, (ids, stop) in enumerate(zip(answers, stops, strict=True)):
        ends = (n for n in range(1, 21) if any(one in text(ids[:n]) for one in stop))
        first = next(ends, None)
        assert done[i].token_ids.tolist() == ids[:first]
        assert done[i].finish_reason == ("length" if first is None else "stop")
        ended += first is not None
    assert ended > len(prompts) / 4


def test_memory_too_small_for_one_request_names_the_setting():
    decoder = decoder_of(reference_model("llama"))
    with pytest.raises(CapacityError, match="--kv-tokens: 24 is too small"):
        run_engine(decoder, [[5] * 30], [Sampling(max_tokens=4)], kv_tokens=24)


def test_answers_end_at_the_context_length():
    decoder = decoder_of(reference_model("llama"))
    _, done = run_engine(decoder, [[5] * 500], [Sampling(max_tokens=100, ignore_eos=True)])
    assert len(done[0].token_ids) == 12
    assert done[0].finish_reason == "length"
