"""Constrained answers of the demo's model: all valid, whatever happens to a sequence while it runs.

``NIGHTBLEND_STRUCTURED=all`` (`make test-structured`) answers every schema under every policy; without it a
few of each.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from llguidance import LLMatcher
from transformers import AutoTokenizer

from engine.backends.native.answer import refused_item
from engine.choices import POLICIES
from engine.cost.step import NOMINAL, ModelShape
from engine.grammar.constraint import constraint, grammar
from engine.models.config import load_config
from engine.models.decoder import Decoder
from engine.models.weights import load_weights
from engine.plan.policies import make_plan
from engine.runtime.core import Completion, Engine, EngineSettings
from engine.runtime.cpu.runner import CpuRunner
from engine.runtime.sample.constraints import Constraints, make_vocabulary
from engine.runtime.sample.settings import Sampling
from tests.support.device_runners import Poisoned
from tests.support.engines import answers, assert_idle, run_engine
from tests.support.models import decoder_of, flatten, reference_model
from tests.support.paths import DEMO_MODEL
from tests.support.random_texts import demo_vocabulary
from tests.support.schemas import SCHEMAS, check
from tests.support.tokenizers import llama_2, unigram, word_piece

ALL = os.environ.get("NIGHTBLEND_STRUCTURED") == "all"
MOST_TOKENS = 160
STRIDE = 1 if ALL else 29
KINDS = {
    "json": SCHEMAS["sentiment"],
    "regex": "[a-z]{3,10}!",
    "choice": ["yes", "no", "maybe"],
    "grammar": 'start: "select " NAME ("," NAME){0,2}\nNAME: /[a-z]{1,5}/',
}


@cache
def demo() -> tuple[Decoder, AutoTokenizer]:
    config = load_config(DEMO_MODEL)
    weights = load_weights(DEMO_MODEL, config, torch.float32, "cpu")
    return Decoder(config, weights), AutoTokenizer.from_pretrained(DEMO_MODEL)


def prompts_of(count: int) -> list[list[int]]:
    _, tokenizer = demo()
    return [tokenizer(f"Question {i % 7}: what is {i}?")["input_ids"] for i in range(count)]


def device_runner(decoder, kv_tokens, page_size, lag):
    return Poisoned(decoder, kv_tokens, page_size, 64, 16, 512, lag=lag)


def invalid(schema, answer: Completion) -> str | None:
    """Return why an answer is not as its schema has it; None: it is, as far as it goes.

    One that reached its limit is the beginning of one that is.
    """
    if answer.failure is not None:
        return answer.failure
    if answer.finish_reason == "stop":
        try:
            check(schema, answer.text)
        except (ValueError, jsonschema.ValidationError) as error:
            return f"{answer.text!r}: {error}"
        return None
    ids = answer.token_ids.tolist()
    matcher = LLMatcher(demo_vocabulary(), grammar(constraint("json", schema)), log_level=0)
    goes_on = len(ids) == MOST_TOKENS and matcher.consume_tokens(ids)
    return None if goes_on else f"{answer.text!r} after {len(ids)} tokens"


@pytest.fixture(scope="module", name="tally")
def _tally():
    """Answers and invalid ones of all policies, told at the end."""
    counts = [0, 0]
    yield counts
    print(f"\nof every policy that ran: {counts[0]:,} answers, {counts[1]} invalid")


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_answer_is_valid(policy: str, tally: list[int]) -> None:
    """In little memory, so that sequences are preempted; with a step in flight and without."""
    at = sorted(POLICIES).index(policy)
    schemas = list(SCHEMAS.values())[at % STRIDE :: STRIDE]
    decoder, tokenizer = demo()
    sampling = [
        Sampling(
            MOST_TOKENS,
            temperature=1.2 * (i % 3 > 0),
            top_k=50 * (i % 2),
            seed=at * 1000 + i,
            ignore_eos=i % 5 == 0,
            logprobs=2 if i % 7 == 0 else None,
            constraint=constraint("json", schema),
        )
        for i, schema in enumerate(schemas)
    ]
    engine, done = run_engine(
        decoder,
        prompts_of(len(schemas)),
        sampling,
        policy,
        lag=at % 2,
        runner=device_runner if at % 3 == 2 else CpuRunner,
        tokenizer=tokenizer,
        estimate=np.full(len(schemas), 2.0),
        kv_tokens=200,
        max_sequences=16,
    )
    complete = sum(answer.finish_reason == "stop" for answer in done.values())
    wrong = [why for i, schema in enumerate(schemas) if (why := invalid(schema, done[i])) is not None]
    print(
        f"\n{policy}: {len(done)} answers, {len(wrong)} invalid ({complete} complete, others cut by their "
        f"limit), {engine.counters()['preemptions']} preemptions"
    )
    tally[0] += len(done)
    tally[1] += len(wrong)
    assert not wrong, "\n".join(wrong)
    assert complete > 0.9 * len(schemas)
    if policy in ("blend", "dfs"):
        # In the other orders the few of a short test may all fit.
        assert engine.counters()["preemptions"] > 0
    assert_idle(engine)


def test_an_answer_that_is_not_valid_is_told() -> None:
    schema = SCHEMAS["sentiment"]
    _, tokenizer = demo()

    def answer(text: str, reason: str) -> Completion:
        ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
        return Completion(0, ids, text, reason, 0, 0.0, 0.0)

    for text in ("{", '{"other": 1}', "5"):
        assert invalid(schema, answer(text, "stop")) is not None
        assert invalid(schema, answer(text, "length")) is not None
    assert invalid(schema, replace(answer("{}", "stop"), failure="no tokenizer")) == "no tokenizer"


def test_a_run_that_goes_on_later_gives_the_same_answers() -> None:
    """What was not finished is computed from its prompt again, by an engine that knows nothing of it."""
    decoder, tokenizer = demo()
    schemas = list(SCHEMAS.values())[:: max(STRIDE, 4)]
    sampling = [
        Sampling(MOST_TOKENS, temperature=0.8 * (i % 2), seed=i, constraint=constraint("json", schema))
        for i, schema in enumerate(schemas)
    ]
    prompts = prompts_of(len(schemas))
    _, expected = run_engine(decoder, prompts, sampling, "dfs", tokenizer=tokenizer)
    tokens, start = flatten(prompts)
    plan = make_plan(
        "dfs", tokens, start, np.full(len(prompts), 9.0), ModelShape.of(decoder.config), NOMINAL["cpu"]
    )
    settings = EngineSettings(kv_tokens=1024, page_size=8, token_budget=64, max_sequences=6)
    first = Engine(CpuRunner(decoder, 1024, 8, lag=1), tokenizer, settings, tokens, start, sampling, plan)
    done = {}
    while len(done) < len(prompts) // 2:
        done |= {answer.request: answer for answer in first.step()[0]}
    done |= {answer.request: answer for answer in first.drain()}
    rest = [i for i in range(len(prompts)) if i not in done]
    assert rest
    _, later = run_engine(
        decoder, [prompts[i] for i in rest], [sampling[i] for i in rest], "blend", lag=1, tokenizer=tokenizer
    )
    done |= {rest[i]: answer for i, answer in later.items()}
    assert [row[:3] for row in answers(done)] == [row[:3] for row in answers(expected)]


def mixed(count: int) -> list[Sampling]:
    """Every fifth request has no constraint."""
    texts = [*(constraint(kind, value) for kind, value in KINDS.items()), None]
    return [
        Sampling(
            MOST_TOKENS if i % 5 < 4 else 20,
            temperature=0.9 * (i % 2),
            top_p=0.9,
            seed=i,
            constraint=texts[i % 5],
            logprobs=1,
        )
        for i in range(count)
    ]


def test_every_kind_is_held_to_and_neighbours_and_log_probabilities_are_not_touched() -> None:
    decoder, tokenizer = demo()
    prompts, sampling = prompts_of(20), mixed(20)
    _, done = run_engine(decoder, prompts, sampling, tokenizer=tokenizer)
    free = [Sampling(s.max_tokens, s.temperature, top_p=s.top_p, seed=s.seed, logprobs=1) for s in sampling]
    _, plain = run_engine(decoder, prompts, free, tokenizer=tokenizer)
    for i in range(20):
        answer = done[i]
        if i % 5 == 0:
            check(KINDS["json"], answer.text)
        elif i % 5 == 1:
            assert re.fullmatch(KINDS["regex"], answer.text)
        elif i % 5 == 2:
            assert answer.text in KINDS["choice"]
        elif i % 5 == 3:
            assert re.fullmatch(r"select [a-z]{1,5}(,[a-z]{1,5}){0,2}", answer.text)
        else:
            assert answer.token_ids.tolist() == plain[i].token_ids.tolist()
            continue
        assert answer.finish_reason == "stop"
        # The first token is drawn from fewer; its alternatives are those of the model alone.
        assert answer.logprobs.top_ids[0].tolist() == plain[i].logprobs.top_ids[0].tolist()
        assert len(answer.logprobs.chosen) == len(answer.token_ids)


@pytest.mark.parametrize("lag", [0, 1])
def test_answers_are_the_same_on_every_runner_and_in_any_memory(lag: int) -> None:
    """Also where each is put back, since nobody expects answers of this length."""
    decoder, tokenizer = demo()
    long = constraint("regex", "([0-9][a-z]){40}")
    sampling = [
        *mixed(5),
        *(Sampling(MOST_TOKENS, temperature=0.9 * (i % 2), seed=i, constraint=long) for i in range(10)),
    ]
    prompts = prompts_of(15)
    _, expected = run_engine(decoder, prompts, sampling, tokenizer=tokenizer)
    assert all(len(expected[i].token_ids) > 40 for i in range(5, 15))
    for runner in (CpuRunner, device_runner):
        engine, found = run_engine(
            decoder,
            prompts,
            sampling,
            "blend",
            np.full(15, 2.0),
            lag=lag,
            runner=runner,
            tokenizer=tokenizer,
            kv_tokens=200,
        )
        assert engine.counters()["preemptions"] > 0
        assert [row[:3] for row in answers(found)] == [row[:3] for row in answers(expected)]


@pytest.mark.parametrize("runner", [CpuRunner, device_runner])
@pytest.mark.parametrize("lag", [0, 1])
def test_what_changes_logits_changes_them_within_the_constraint(runner, lag: int) -> None:
    """Min-p is of the most likely token that is allowed, and no bias makes another one likely."""
    decoder, tokenizer = demo()
    yes, no, other = (
        tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no", "Q")
    )
    text = constraint("choice", ["yes", "no"])
    given = [
        {"logit_bias": ((other, 100.0), (yes, 50.0))},
        {"logit_bias": ((other, 100.0), (no, 50.0))},
        {"min_p": 1.0, "temperature": 1.5, "logit_bias": ((other, 100.0),)},
        {"repetition_penalty": 1.5, "presence_penalty": 2.0, "frequency_penalty": 2.0},
    ]
    sampling = [Sampling(20, **{"seed": i, "constraint": text, **one}) for i, one in enumerate(given)]
    _, done = run_engine(
        decoder, prompts_of(len(given)), sampling, lag=lag, runner=runner, tokenizer=tokenizer
    )
    said = [done[i].text for i in range(len(given))]
    assert said[:2] == ["yes", "no"]
    assert set(said) <= {"yes", "no"}


def test_an_answer_ends_with_its_constraint_without_a_token_more() -> None:
    decoder, tokenizer = demo()
    sampling = [Sampling(50, ignore_eos=bool(i), constraint=constraint("choice", ["yes"])) for i in range(2)]
    _, done = run_engine(decoder, prompts_of(2), sampling, tokenizer=tokenizer)
    for answer in done.values():
        assert (answer.text, answer.finish_reason) == ("yes", "stop")
        assert tokenizer.decode(answer.token_ids) == "yes"
    # One that could go on ends with the model's own end, ignored or not.
    open_end = constraint("regex", "ab*")
    sampling = [
        Sampling(60, temperature=2.0, seed=i, ignore_eos=i % 2 == 0, constraint=open_end) for i in range(40)
    ]
    _, done = run_engine(decoder, prompts_of(40), sampling, tokenizer=tokenizer)
    assert all(re.fullmatch("ab*", answer.text) for answer in done.values())
    assert {answer.finish_reason for i, answer in done.items() if i % 2 == 0} >= {"stop"}


def test_a_tokenizer_that_takes_no_constraints_fails_these_requests_alone() -> None:
    decoder, _ = demo()
    tokenizer = word_piece()
    sampling = [Sampling(5, constraint=constraint("regex", "a+")), Sampling(5, ignore_eos=True)]
    vocabulary = SimpleNamespace(get_vocab=tokenizer.get_vocab)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        make_vocabulary(vocabulary, 100, [3])
    slow = Constraints(sampling, vocabulary, decoder.config.vocab_size, [3])
    out = np.zeros((1, slow.words), np.int32)
    slow.fill([0], [np.zeros(0, np.int32)], out)
    assert (out == -1).all()
    assert slow.ended(0, np.zeros(1, np.int32))
    assert "tokenizer.json" in slow.failures[0]
    job = SimpleNamespace(request_ids=["r"], choices=[0], sampling=sampling)
    item = refused_item(job, SimpleNamespace(request=0, failure=slow.failures[0]))
    assert (item["code"], item["field"]) == ("unsupported_parameter", "structured_outputs")
    assert "tokenizer.json" in item["message"]
    with pytest.raises(ValueError, match="constraint"):
        Constraints(sampling, None, 10, [3])


@pytest.mark.parametrize("make", [llama_2, lambda: unigram(byte_tokens=True)])
def test_tokenizers_of_other_kinds(make) -> None:
    """Pieces in the manner of SentencePiece; a model with more rows than tokens, and none that ends."""
    tokenizer = make()
    size = max(tokenizer.get_vocab().values()) + 1
    for ends in ([], [2], [2, size + 5]):
        constraints = Constraints(
            [Sampling(9, constraint=constraint("regex", "[ab ]+"))], tokenizer, size + 9, ends
        )
        assert not constraints.failures
        out = np.zeros((1, constraints.words), np.int32)
        constraints.fill([0], [np.zeros(0, np.int32)], out)
        bits = np.unpackbits(out.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        assert len(allowed)
        assert not set(allowed.tolist()) & {0, 2, size + 5}


def test_grammars_are_shared_and_those_unused_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runtime.sample.constraints.MOST_GRAMMARS", 2)
    _, tokenizer = demo()
    texts = [constraint("choice", [f"x{i % 5}"]) for i in range(10)] + [constraint("regex", "y+")]
    constraints = Constraints([Sampling(9, constraint=text) for text in texts], tokenizer, 2560, [2])
    out, empty = np.zeros((10, constraints.words), np.int32), np.zeros(0, np.int32)
    constraints.fill(range(10), [empty] * 10, out)
    assert len(constraints._grammars) == 5
    assert out[0].tolist() == out[5].tolist()
    for request in range(10):
        constraints.forget(request)
    constraints.fill([3, 10], [empty] * 2, out)
    assert list(constraints._grammars) == [texts[3], texts[10]]


def test_what_was_taken_in_is_the_answer_alone() -> None:
    """A sequence goes back by a token when it is preempted with one in flight."""
    _, tokenizer = demo()
    constraints = Constraints([Sampling(9, constraint=constraint("regex", "abc"))], tokenizer, 2560, [2])
    a, b, c = (tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in "abc")
    masks = [np.zeros((1, constraints.words), np.int32) for _ in range(3)]
    for mask, ids in zip(masks, ([a], [a, b], [a]), strict=True):
        constraints.fill([0], [np.array(ids, np.int32)], mask)
    assert masks[0].tolist() == masks[2].tolist() != masks[1].tolist()
    assert not constraints.ended(0, np.array([a, b], np.int32))
    assert constraints.ended(0, np.array([a, b, c], np.int32))
    constraints.forget(0)
    assert not constraints.ended(0, np.array([a, b], np.int32))


def test_requests_without_any_need_no_tokenizer() -> None:
    model = reference_model("llama")
    _, done = run_engine(decoder_of(model), [[5, 6, 7]], [Sampling(3, ignore_eos=True)])
    assert len(done[0].token_ids) == 3
