"""What SGLang is asked, and its answers as messages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from engine.backends.foreign.answers import LOWEST
from engine.backends.foreign.reading import AnswerReader
from engine.backends.sglang.items import answer_item, request_fields, sampling_fields
from engine.models.config import load_config
from engine.runtime.sample.settings import Sampling
from tests.support.paths import DEMO_MODEL

SAMPLING = [
    Sampling(4),
    Sampling(4, logprobs=2),
    Sampling(9, stop=("7", "6 ")),
    Sampling(9, constraint='{"choice":["yes","no"]}'),
]
JOB = SimpleNamespace(
    request_ids=["a", "b", "c", "d"],
    choices=[0, 1, 0, 0],
    sampling=SAMPLING,
    tokens=np.array([5, 6, 7, 8], np.int32),
    offsets=np.array([0, 1, 3, 4, 4]),
)
TOKENIZER = AutoTokenizer.from_pretrained(DEMO_MODEL)
CONFIG = load_config(DEMO_MODEL)
READER = AnswerReader(SAMPLING, TOKENIZER, CONFIG.vocab_size, CONFIG.stop_token_ids)


def text_of(token: int) -> bytes:
    return str(token).encode()


def output(ids: list[int], reason: str = "stop", text: str = "t", **told) -> dict:
    meta = {"finish_reason": {"type": reason}, "cached_tokens": 16, **told}
    return {"text": text, "output_ids": ids, "meta_info": meta}


def item(request: int, found: dict):
    return answer_item(JOB, request, found, (1.0, 2.0), text_of, READER)


def test_every_field_is_given_so_that_no_default_applies() -> None:
    fields = sampling_fields(Sampling(7, stop=("x",), stop_token_ids=(5,)), (2, 5))
    assert (fields["max_new_tokens"], fields["stop"], fields["stop_token_ids"]) == (7, ["x"], [2, 5])
    assert (fields["temperature"], fields["top_k"], fields["top_p"]) == (0.0, -1, 1.0)
    assert (fields["ignore_eos"], fields["n"], fields["no_stop_trim"]) == (False, 1, True)
    assert (fields["repetition_penalty"], fields["min_p"], fields["min_new_tokens"]) == (1.0, 0.0, 0)


@pytest.mark.parametrize(
    ("seed", "signed"),
    [(0, 0), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1), (2**63 + 5, -(2**63) + 5)],
)
def test_seeds_are_signed_and_stay_apart(seed: int, signed: int) -> None:
    assert sampling_fields(Sampling(7, temperature=0.7, seed=seed), ())["sampling_seed"] == signed


def test_log_probabilities_are_asked_for_where_they_are_wanted() -> None:
    plain, wanted = request_fields(JOB, 0, (), "0"), request_fields(JOB, 1, (), "1")
    assert plain.keys() & {"return_logprob", "top_logprobs_num"} == set()
    assert (wanted["return_logprob"], wanted["top_logprobs_num"]) == (True, 2)
    assert (wanted["input_ids"], wanted["rid"]) == ([6, 7], "1")


def test_an_answer_has_its_alternatives() -> None:
    own = [(-0.1, 9, None), (float("-inf"), 7, None)]
    top = [[(-0.1, 9, None), (-2.0, 4, None), (-3.0, 5, None)], None]
    found = item(1, output([9, 7], output_token_logprobs=own, output_top_logprobs=top))
    assert found["logprobs"] == [[9, "9", -0.1, [[9, "9", -0.1], [4, "4", -2.0]]], [7, "7", LOWEST, []]]
    assert (found["request_id"], found["choice"], found["token_ids"]) == ("b", 1, [9, 7])
    assert (found["cached_tokens"], found["started_at"], found["finished_at"]) == (16, 1.0, 2.0)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (output([9], "abort"), "SGLang ended it with abort"),
        ({**output([9]), "meta_info": {"finish_reason": None}}, "SGLang ended it with None"),
        (output([]), "SGLang ended it without a token"),
        (
            output([9, 7], output_token_logprobs=[(-0.1, 9, None)]),
            "SGLang told the log probabilities of other tokens than those of the answer",
        ),
    ],
)
def test_what_is_no_answer(found: dict, said: str) -> None:
    assert item(1, found) == said


def test_a_stop_string_is_cut_off() -> None:
    for text, expected in (("5 6 7", "5 "), ("5 8", "5 8")):
        ids = TOKENIZER.encode(text, add_special_tokens=False)
        assert item(2, output(ids, text=text))["text"] == expected


def test_what_changes_logits_and_needs_no_memory_is_passed_on() -> None:
    fields = sampling_fields(Sampling(9, temperature=0.5, min_p=0.2, logit_bias=((5, -1.0),)), ())
    assert (fields["min_p"], fields["logit_bias"]) == (0.2, {"5": -1.0})
    assert "ebnf" not in fields
    assert sampling_fields(SAMPLING[3], ())["ebnf"].startswith("%llguidance")


def test_an_end_is_not_ignored_where_a_grammar_says_where_it_is() -> None:
    constraint = SAMPLING[3].constraint
    given = [Sampling(9, ignore_eos=True, constraint=one) for one in (None, constraint)]
    assert [sampling_fields(settings, (2,))["ignore_eos"] for settings in given] == [True, False]


def test_a_constrained_answer_ends_where_it_is_complete_or_is_none() -> None:
    ids = TOKENIZER.encode("yes", add_special_tokens=False)
    found = item(3, output([*ids, CONFIG.stop_token_ids[0]]))
    assert (found["token_ids"], found["text"], found["finish_reason"]) == (ids, "yes", "stop")
    other = item(3, output(TOKENIZER.encode("maybe", add_special_tokens=False)))
    assert other == "its answer is not what its constraint asks for"
