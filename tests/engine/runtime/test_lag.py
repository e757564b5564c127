"""One step in flight: the same answers, token for token, as with none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.cost.step import NOMINAL, ModelShape
from engine.models.config import load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.plan.policies import make_plan
from engine.runtime import state
from engine.runtime.core import Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.sample.settings import Sampling
from engine.runtime.schedule import flight
from tests.support.engines import answers, assert_idle, run_engine, some_prompts
from tests.support.models import decoder_of, flatten, greedy, reference_model
from tests.support.paths import DEMO_MODEL


def both(decoder, prompts, sampling, *more, **settings):
    """Run with and without lag, compare the answers, and return the two engines and the answers."""
    one, expected = run_engine(decoder, prompts, sampling, *more, lag=0, **settings)
    two, found = run_engine(decoder, prompts, sampling, *more, lag=1, **settings)
    for got, wanted in zip(answers(found), answers(expected), strict=True):
        assert got[:3] == wanted[:3]
        # The sums of a row are rounded differently in a step of another size.
        assert got[3] == pytest.approx(wanted[3], abs=1e-4)
    assert_idle(two)
    return one, two, answers(found)


def test_greedy_answers_and_what_the_lag_costs() -> None:
    model, prompts = reference_model("llama"), some_prompts()
    expected = [greedy(model, prompt, 12) for prompt in prompts]
    # A stop token ends every third answer early; only such an answer has a surplus token.
    stops = [(answer[5],) if i % 3 == 0 else () for i, answer in enumerate(expected)]
    sampling = [Sampling(max_tokens=12, stop_token_ids=ids) for ids in stops]
    one, two, found = both(decoder_of(model), prompts, sampling)
    for answer, ids, (tokens, _, reason, _) in zip(expected, stops, found, strict=True):
        assert tokens == (answer[: answer.index(ids[0]) + 1] if ids else answer)
        assert reason == ("stop" if ids or answer[-1] == 3 else "length")
    early = sum(reason == "stop" and len(ids) < 12 for ids, _, reason, _ in found)
    assert one.counters()["surplus_tokens"] == 0
    assert two.counters()["surplus_tokens"] == early > 0


def test_no_surplus_where_lengths_are_known() -> None:
    prompts = some_prompts(2)
    sampling = [Sampling(max_tokens=1 + i, ignore_eos=True) for i in range(len(prompts))]
    one, two, _ = both(decoder_of(reference_model("llama")), prompts, sampling)
    assert two.counters()["surplus_tokens"] == 0
    assert two.counters()["decode_tokens"] == one.counters()["decode_tokens"]


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_preemptions_give_up_tokens_in_flight(temperature: float) -> None:
    prompts = some_prompts(4, 24)
    sampling = [
        Sampling(max_tokens=40, temperature=temperature, seed=i, logprobs=1 if i % 4 == 0 else None)
        for i in range(24)
    ]
    _, two, _ = both(
        decoder_of(reference_model("llama")), prompts, sampling, "blend", kv_tokens=160, max_sequences=12
    )
    assert two.counters()["preemptions"] > 0


@given(
    seed=st.integers(0, 100),
    kv_tokens=st.sampled_from([88, 120, 400]),
    budget=st.integers(2, 24),
    page_size=st.sampled_from([1, 4, 8]),
    drawn=st.booleans(),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_any_memory_and_step_size(seed, kv_tokens, budget, page_size, drawn) -> None:
    rng = np.random.default_rng(seed)
    prompts = some_prompts(seed, 10)
    sampling = [
        Sampling(max_tokens=int(n), temperature=float(drawn), seed=seed + i, ignore_eos=bool(i % 2))
        for i, n in enumerate(rng.integers(1, 16, 10))
    ]
    sizes = {"kv_tokens": kv_tokens // page_size * page_size, "page_size": page_size, "token_budget": budget}
    both(DECODER, prompts, sampling, "blend", **sizes, max_sequences=min(budget, 6))


DECODER = decoder_of(reference_model("qwen2-window"))


def test_stop_strings_and_stop_tokens() -> None:
    """Real words, so that a stop string spans tokens; it is noticed one step late."""
    config = load_config(DEMO_MODEL)
    decoder = Decoder(config, load_weights(DEMO_MODEL, config, torch.float32, "cpu"))
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    texts = [f"Count from {i} to {i + 9}" for i in range(8)]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        for text in texts
    ]
    prompts = [prompt["input_ids"] for prompt in prompts]
    settings = {"tokenizer": tokenizer, "max_sequences": 4, "kv_tokens": 4096, "page_size": 16}
    _, free = run_engine(decoder, prompts, [Sampling(30, ignore_eos=True)] * 8, **settings)
    cuts = [free[i].text[12:15] for i in range(8)]
    assert all(len(cut) == 3 for cut in cuts)
    sampling = [
        Sampling(30, ignore_eos=True, stop=(cut, "zzz"), stop_token_ids=(7,) if i % 2 else ())
        for i, cut in enumerate(cuts)
    ]
    _, two, found = both(decoder, prompts, sampling, **settings)
    assert [reason for _, _, reason, _ in found] == ["stop"] * 8
    assert two.counters()["surplus_tokens"] == 8
    for i, (_, text, _, _) in enumerate(found):
        assert text == free[i].text[: free[i].text.index(cuts[i])]


def test_what_is_in_flight_is_taken_in_before_a_stop() -> None:
    prompts = some_prompts(3)
    tokens, start = flatten(prompts)
    plan = make_plan(
        "dfs", tokens, start, np.ones(len(prompts)), ModelShape.of(DECODER.config), NOMINAL["cpu"]
    )
    runner = CpuRunner(DECODER, 4096, 8, lag=1)
    sampling = [Sampling(max_tokens=1)] * len(prompts)
    sizes = EngineSettings(kv_tokens=4096, page_size=8, token_budget=4096, max_sequences=64)
    engine = Engine(runner, None, sizes, tokens, start, sampling, plan)
    finished, _ = engine.step()
    assert finished == []
    unfinished = engine.unfinished
    drained = engine.drain()
    assert 0 < len(drained) == unfinished - engine.unfinished
    assert engine.drain() == []


def test_a_flight_forgets_and_takes_back() -> None:
    requests = state.make_requests(
        np.zeros(4, np.int32), np.array([0, 2, 4]), np.array([5, 1]), np.ones(2), np.zeros(2, np.int8)
    )
    slots, work, plane = state.make_slots(2, 2, 5), state.make_work(4, 2), flight.make_flight(2)
    slots.request[:] = [1, 0]
    work.size[state.W_SAMPLES] = 2
    work.sample_slots[:] = [1, 0]
    flight.assume(requests, slots, work, plane)
    # Request 1 has room for one token only, so it is not taken to go on.
    assert requests.generated.tolist() == [1, 0]
    assert slots.output[[1, 0], 0].tolist() == [state.PLACEHOLDER] * 2
    flight.take_back(requests, plane, 1)
    assert requests.generated.tolist() == [0, 0]
    flight.fill(requests, slots, plane, np.array([8, 9]), np.zeros(0, np.int64))
    assert plane.reason.tolist() == [state.UNFINISHED, state.LENGTH]
    assert slots.output[[1, 0], 0].tolist() == [state.PLACEHOLDER, 9]
    flight.end(requests, plane)
    assert requests.generated.tolist() == [0, 1]
    assert [flight.forget(plane, slot) for slot in (0, 0, 1)] == [1, 0, 0]
