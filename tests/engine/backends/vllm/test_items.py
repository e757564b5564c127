"""What vLLM is asked, and its answers as messages."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from engine.backends.foreign.answers import LOWEST
from engine.backends.foreign.reading import Answered
from engine.backends.vllm.items import CONSTRAINT, answer_item, sampling_fields
from engine.runtime.sample.settings import Sampling

ANSWERED = Answered([1], "t", "length")
JOB = SimpleNamespace(request_ids=["a", "b"], choices=[0, 1], sampling=[Sampling(4), Sampling(4, logprobs=2)])


def text_of(token: int) -> bytes:
    return b"\xe2" if token == 9 else str(token).encode()


def test_every_field_is_given_so_that_no_default_of_the_model_applies() -> None:
    fields = sampling_fields(Sampling(7, stop=("x",), stop_token_ids=(5,)), (2, 5), seeded=True)
    assert (fields["max_tokens"], fields["stop"], fields["stop_token_ids"]) == (7, ["x"], [2, 5])
    assert (fields["seed"], fields["ignore_eos"], fields["n"]) == (None, True, 1)
    assert (fields["temperature"], fields["top_k"], fields["top_p"]) == (0.0, 0, 1.0)
    assert (fields["repetition_penalty"], fields["min_p"]) == (1.0, 0.0)


def test_the_models_own_stops_are_left_out_where_they_are_to_be_ignored() -> None:
    settings = Sampling(7, stop_token_ids=(5,), ignore_eos=True)
    assert sampling_fields(settings, (2,), seeded=True)["stop_token_ids"] == [5]


@pytest.mark.parametrize(("seeded", "seed"), [(True, 1), (False, None)])
def test_a_seed_is_within_what_vllm_takes(seeded: bool, seed: int | None) -> None:
    settings = Sampling(7, temperature=0.7, top_k=3, top_p=0.9, seed=2**63 + 1)
    fields = sampling_fields(settings, (), seeded=seeded)
    assert (fields["seed"], fields["top_k"], fields["top_p"]) == (seed, 3, 0.9)


def logprob(value: float, rank: int) -> SimpleNamespace:
    return SimpleNamespace(logprob=value, rank=rank)


def test_an_answer_has_its_alternatives_in_the_order_of_their_rank() -> None:
    places = [
        {9: logprob(-0.1, 1), 4: logprob(-2.0, 2)},
        # The token that was drawn is not among the two likeliest.
        {7: logprob(-9.0, 30), 3: logprob(float("-inf"), 2), 4: logprob(-0.5, 1)},
    ]
    output = SimpleNamespace(token_ids=(9, 7), text="t", finish_reason="stop", logprobs=places)
    item = answer_item(JOB, 1, output, 16, (1.0, 2.0), text_of, Answered([9, 7], "t", "stop"))
    assert item["logprobs"] == [
        [9, "\xe2", -0.1, [[9, "\xe2", -0.1], [4, "4", -2.0]]],
        [7, "7", -9.0, [[4, "4", -0.5], [3, "3", LOWEST]]],
    ]
    assert (item["request_id"], item["choice"], item["token_ids"]) == ("b", 1, [9, 7])
    assert (item["cached_tokens"], item["started_at"], item["finished_at"]) == (16, 1.0, 2.0)
    assert "NaN" not in json.dumps(item)
    assert "Infinity" not in json.dumps(item)


def test_what_changes_logits_is_passed_on() -> None:
    settings = Sampling(
        9,
        temperature=0.5,
        presence_penalty=1.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.3,
        min_p=0.2,
        min_tokens=4,
        logit_bias=((5, -100.0), (7, 2.5)),
    )
    fields = sampling_fields(settings, (2,), seeded=False)
    penalties = ("presence_penalty", "frequency_penalty", "repetition_penalty")
    assert [fields[name] for name in penalties] == [1.5, -0.5, 1.3]
    assert (fields["min_p"], fields["min_tokens"]) == (0.2, 4)
    assert fields["logit_bias"] == {5: -100.0, 7: 2.5}
    # It has no effect on a greedy answer.
    assert sampling_fields(Sampling(9, min_p=0.2), (), seeded=False)["min_p"] == 0.0
    assert sampling_fields(Sampling(9), (), seeded=False)["logit_bias"] is None
    # What is left of the context may be less.
    assert sampling_fields(Sampling(3, min_tokens=8), (), seeded=False)["min_tokens"] == 3


def test_a_constrained_answer_ends_with_the_token_that_its_grammar_allows() -> None:
    settings = Sampling(9, constraint='{"choice":["yes","no"]}', ignore_eos=True)
    fields = sampling_fields(settings, (2,), seeded=False, end=7)
    assert fields["stop_token_ids"] == [7]
    assert "yes" in fields[CONSTRAINT] or "start:" in fields[CONSTRAINT]
    assert CONSTRAINT not in sampling_fields(Sampling(9), (2,), seeded=False, end=7)


def test_log_probabilities_end_where_the_answer_does() -> None:
    places = [{9: logprob(-0.1, 1)}, {2: logprob(0.0, 1)}]
    output = SimpleNamespace(logprobs=places)
    item = answer_item(JOB, 0, output, 0, (1.0, 2.0), text_of, Answered([9], "t", "stop"))
    assert [one[0] for one in item["logprobs"]] == [9]


def test_an_answer_without_log_probabilities_has_none() -> None:
    output = SimpleNamespace(token_ids=[1], text="t", finish_reason="length", logprobs=None)
    assert answer_item(JOB, 0, output, None, (1.0, 2.0), text_of, ANSWERED)["logprobs"] is None
